"""Replaces the worker of a gateway, gracefully or not, while its port stays open."""

import signal

from tests.servers import GatewayServer, wait_until


def replace_worker(gateway: GatewayServer, how: signal.Signals) -> None:
    """Drain the worker and start another one by SIGHUP, or kill it by SIGKILL."""
    [worker] = gateway.workers()
    (gateway.process if how is signal.SIGHUP else worker).send_signal(how)
    wait_until(lambda: worker not in gateway.workers() and gateway.workers(), "another worker")
