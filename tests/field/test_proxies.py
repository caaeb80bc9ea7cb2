"""Each proxy that docs/deploy.md names, configured as shown there, and Varnish as installed."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import requests

from app.client import Client
from app.streaming.errors import InvalidEvent
from tests.clients import Stream
from tests.field.proxies import CONFIGURED, Proxy, Varnish, each_of
from tests.field.traffic import EVENT
from tests.raw_http import stream_path
from tests.servers import wait_until

pytestmark = pytest.mark.parametrize(
    "proxy", each_of(*CONFIGURED, Varnish), indirect=True, scope="module"
)


def stream_url(proxy: Proxy, run_id: str, query: str = "") -> str:
    return f"{proxy.url}{stream_path(run_id, query)}"


# Live


def test_a_line_reaches_a_follower_while_its_request_is_open(proxy, run_id):
    def events() -> Iterator[dict]:
        for number in range(1, 6):
            yield EVENT
            stream.wait_for_events(number)

    with Stream(stream_url(proxy, run_id)) as stream:
        ingested = Client(proxy.url).stream(run_id, events())
    assert ingested == (5, stream.events[-1].last_event_id, 5)
    assert stream.sequences == [1, 2, 3, 4, 5]


def test_json_lines_come_one_by_one(proxy, store, run_id):
    headers = {"Accept": "application/x-ndjson"}
    with requests.get(
        stream_url(proxy, run_id), headers=headers, stream=True, timeout=20
    ) as stream:
        lines = stream.iter_lines(chunk_size=None)
        assert any(b"caught_up" in line for line in lines)
        for number in range(1, 6):
            store.add(run_id, "llm", "stream")
            assert any(b'"sequence":%d,' % number in line for line in lines)


def test_a_heartbeat_comes_though_no_empty_line_follows_it(proxy, store, run_id):
    with Stream(stream_url(proxy, run_id)) as stream:
        wait_until(lambda: stream.comments.count("heartbeat") >= 1, "a heartbeat")
        store.add(run_id, "llm", "stream")
        stream.wait_for_events(1)


def test_a_batch_may_be_as_large_as_the_gateway_allows(proxy, store, run_id):
    events = [{**EVENT, "data": "x" * 200_000}] * 20
    ids = Client(proxy.url).add_many(run_id, events)
    assert [event.id for event in store.get_events(run_id)] == ids


def test_a_producer_that_waits_gets_the_answer_to_a_bad_line(proxy, run_id):
    answered = threading.Event()

    def events() -> Iterator[dict]:
        yield from (EVENT, {**EVENT, "event_category": "gateway"})
        answered.wait(20)

    def stream() -> None:
        try:
            Client(proxy.url).stream(run_id, events())
        finally:
            answered.set()

    with pytest.raises(InvalidEvent) as failed:
        stream()
    assert failed.value.ingested.stored == 1


# Hosts


def test_a_host_name_reaches_a_gateway_on_loopback_that_allows_it(proxy, run_id):
    def status(host: str) -> int:
        return requests.get(
            f"{proxy.url}/runs/{run_id}", headers={"Host": host}, timeout=20
        ).status_code

    assert status("tailrace.example") == 404
    assert status("other.example") == (421 if proxy.forwards_host else 404)


# Caches


def test_nobody_gets_the_answer_to_another_request(proxy, store, run_id):
    """A cache that knows no Last-Event-ID takes all these streams for one."""
    state, url = f"{proxy.url}/runs/{run_id}", stream_url(proxy, run_id)
    assert requests.get(state, timeout=20).status_code == 404
    first = store.add(run_id, "llm", "stream")
    assert requests.get(state, timeout=20).json()["ended"] is False
    last = store.add(run_id, "lifecycle", "completed")
    assert requests.get(state, timeout=20).json()["ended"] is True
    assert requests.get(url, headers={"Last-Event-ID": last}, timeout=20).status_code == 204
    for cursor, sequences in (("", [1, 2]), (first, [2]), ("", [1, 2])):
        with Stream(url, {"Last-Event-ID": cursor} if cursor else {}) as stream:
            assert stream.status == 200
            stream.wait_for_end()
            assert stream.sequences == sequences
    assert requests.get(url, headers={"Last-Event-ID": last}, timeout=20).status_code == 204


def test_many_viewers_follow_one_run_at_once(proxy, store, run_id):
    ids = [store.add(run_id, "llm", "stream") for _ in range(3)]
    with ExitStack() as stack:
        viewers = [
            stack.enter_context(Stream(stream_url(proxy, run_id), {"Last-Event-ID": cursor}))
            for cursor in ("earliest", *ids, "latest") * 3
        ]
        for viewer in viewers:
            viewer.wait_for_control("caught_up")
        store.add(run_id, "lifecycle", "completed")
        for viewer in viewers:
            viewer.wait_for_end()
    expected = [[1, 2, 3, 4], [2, 3, 4], [3, 4], [4], [4]] * 3
    assert [viewer.sequences for viewer in viewers] == expected
