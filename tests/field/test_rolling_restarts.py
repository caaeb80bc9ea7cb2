"""Two gateways behind a proxy are replaced one after the other, under load, and nobody notices.

No test asserts a time. The longest silence of a viewer is printed: `pytest -s -k rolling`.
"""

import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.field.proxies import Nginx, skip_if_missing
from tests.field.rolling import Load
from tests.processes import running
from tests.servers import ROOT, GatewayServer, wait_until

VIEWERS_OVER_HTTP_1 = 80
VIEWERS_OVER_HTTP_2 = 120
VIEWERS = VIEWERS_OVER_HTTP_1 + VIEWERS_OVER_HTTP_2

# Between two steps, so much is appended.
EVENTS = 30

pytestmark = [skip_if_missing(Nginx), pytest.mark.timeout(240)]


class LoggingNginx(Nginx):
    """nginx that notes each request, with the answers of the gateways and its own."""

    def configuration(self) -> str:
        log = "log_format t '$request_method $uri $server_protocol $status $upstream_status';\n"
        log += f"access_log {self._directory}/requests t;"
        written = super().configuration()
        assert "access_log off;" in written
        return written.replace("access_log off;", log)

    def requests(self) -> list[tuple[str, str, str, str]]:
        """Return the method, path, protocol and status of each request that is over."""
        lines = (self._directory / "requests").read_text().splitlines()
        return [tuple(line.split(" ")[:4]) for line in lines]


def reload(gateway: GatewayServer) -> None:
    """`systemctl reload`: new workers start, then the old ones drain."""
    former = gateway.workers()
    gateway.process.send_signal(signal.SIGHUP)
    _, alive = psutil.wait_procs(former, timeout=60)
    assert not alive


def restart(gateway: GatewayServer) -> None:
    """`systemctl restart`: it drains and ends, and another one starts and serves."""
    assert gateway.stop(signal.SIGTERM) == 0
    gateway.start()


@pytest.fixture
def gateways(redis_server, tmp_path) -> Iterator[list[GatewayServer]]:
    settings = {"DRAIN_SECONDS": 3, "WEB_CONCURRENCY": 2, "ALLOWED_HOSTS": "tailrace.example"}
    with (
        GatewayServer(redis_server.url, tmp_path / "gateway-1", **settings) as first,
        GatewayServer(redis_server.url, tmp_path / "gateway-2", **settings) as second,
    ):
        yield [first, second]


@pytest.fixture
def nginx(gateways, tmp_path) -> Iterator[LoggingNginx]:
    first, second = gateways
    (tmp_path / "nginx").mkdir()
    with LoggingNginx(tmp_path / "nginx", first.port, other_port=second.port) as nginx:
        yield nginx


def lines_of(gateways: list[GatewayServer], text: str) -> int:
    """Return in how many lines of the gateways' logs a pattern is."""
    return sum(len(re.findall(text, gateway.log.read_text(), re.MULTILINE)) for gateway in gateways)


def viewers_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize("replace", [reload, restart])
def test_nobody_is_refused_and_nothing_is_lost_while_gateways_are_replaced(
    gateways, nginx, store, run_id, tmp_path, replace: Callable[[GatewayServer], None]
):
    store.add(run_id, "lifecycle", "started")
    program = [sys.executable, "-m", "tests.programs.viewers", nginx.tls_url, nginx.authority]
    counts = [str(VIEWERS_OVER_HTTP_1), str(VIEWERS_OVER_HTTP_2)]
    output = tmp_path / "viewers"
    load = Load(nginx.tls_url, str(nginx.authority), run_id)
    with running([*program, run_id, *counts], output, cwd=ROOT) as viewers:
        opened = f"stream opened run={run_id} "
        wait_until(lambda: lines_of(gateways, opened) == VIEWERS, "all viewers are there", 60)
        load.start()
        try:
            for gateway in gateways:
                load.wait_for_more(EVENTS)
                replace(gateway)
            load.wait_for_more(EVENTS)
        finally:
            load.stop()
        store.add(run_id, "lifecycle", "completed")
        assert viewers.wait(60) == 0, output.read_text()

    # No request was refused. A stream of lines ends when its worker stops, as the documents say.
    assert load.refused == []
    statuses = Counter((path, status) for _, path, _, status in nginx.requests())
    ended = {(f"/runs/{load.streamed}/events", "503")}
    assert {each for each in statuses if each[1] not in ("200", "201", "204")} <= ended

    # Nothing was lost or doubled.
    events = store.get_events(run_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    appended = Counter(event.data for event in events if event.category == "llm")
    assert appended == Counter(load.stored.keys())
    assert all(sequence in (0, each.sequence) for each in events[1:-1]
               for sequence in [load.stored[each.data]])  # fmt: skip
    streamed = store.get_events(load.streamed)
    assert [event.data for event in streamed] == list(range(len(streamed)))
    assert load.acknowledged <= {(event.sequence, event.id) for event in streamed}
    seen = viewers_of(output)
    assert len(seen) == VIEWERS
    for viewer in seen:
        assert viewer["sequences"] == list(range(viewer["sequences"][0], len(events) + 1))
        assert (viewer["refused"], viewer["notices"]) == ([], [])

    # Each viewer whose stream ended was served at its first attempt to come back.
    drained = lines_of(gateways, rf"stream ended run={re.escape(run_id)} .*reason=draining")
    assert drained >= VIEWERS
    followed = [each for each in nginx.requests() if each[1].endswith("/events/stream")]
    assert len(followed) == VIEWERS + drained
    assert {protocol for _, _, protocol, _ in followed} == {"HTTP/1.1", "HTTP/2.0"}
    silences = sorted(viewer["longest_silence"] for viewer in seen)
    print(
        f"\n{replace.__name__}: {len(events)} events, {drained} streams ended and resumed; the "
        f"longest silence of a viewer: median {silences[len(silences) // 2]:.2f} s, "
        f"maximum {silences[-1]:.2f} s; the longest request: {load.longest_seconds:.2f} s"
    )
