"""Proxies that are replaced under load, and gateways that are killed behind them."""

import signal
from functools import partial

from tests.field.reloads import replace_worker
from tests.field.traffic import check_faults


def test_no_acknowledged_event_is_lost_or_doubled_while_the_proxy_is_replaced(proxy, store, run_id):
    check_faults(proxy.url, store, run_id, proxy.restart)


def test_no_acknowledged_event_is_lost_or_doubled_while_workers_are_killed(
    proxy, brisk_gateway, store, run_id
):
    check_faults(proxy.url, store, run_id, partial(replace_worker, brisk_gateway, signal.SIGKILL))
