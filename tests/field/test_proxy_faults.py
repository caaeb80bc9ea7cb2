"""Proxies that are replaced under load, and gateways that are killed behind them."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from app.client import Client
from app.streaming.event_store import EventStore
from tests.field.proxies import Proxy
from tests.field.reloads import replace_worker
from tests.field.traffic import EVENTS, append_batches, data_of, has_reached, stream_all
from tests.servers import wait_until


def test_no_acknowledged_event_is_lost_or_doubled_while_the_proxy_is_replaced(proxy, store, run_id):
    check_faults(proxy, store, run_id, proxy.restart)


def test_no_acknowledged_event_is_lost_or_doubled_while_workers_are_killed(
    proxy, brisk_gateway, store, run_id
):
    check_faults(proxy, store, run_id, partial(replace_worker, brisk_gateway, signal.SIGKILL))


def check_faults(proxy: Proxy, store: EventStore, run_id: str, fault: Callable) -> None:
    """Append in batches and as lines, and follow both, while a fault comes twice."""
    batched, streamed = f"{run_id}-batched", f"{run_id}-streamed"
    with Client(proxy.url) as client, ThreadPoolExecutor() as pool:
        following = [pool.submit(list, client.follow(run)) for run in (batched, streamed)]
        appending = pool.submit(append_batches, client, batched)
        streaming = pool.submit(stream_all, client, streamed)
        for so_far in (EVENTS // 3, 2 * EVENTS // 3):
            for run in (batched, streamed):
                wait_until(partial(has_reached, store, run, so_far), f"{so_far} events of {run}")
            fault()
        ids, acknowledged = appending.result(30), streaming.result(30)
        followed = [each.result(30) for each in following]
    for run, events in zip((batched, streamed), followed, strict=True):
        assert data_of(store, run) == list(range(EVENTS))
        assert [event for event in events if event.id] == store.get_events(run)
    assert [event.id for event in followed[0] if event.id] == ids
    assert acknowledged <= {(event.sequence, event.id) for event in followed[1]}
