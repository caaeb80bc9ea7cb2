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
from typing import NamedTuple

import psutil
import pytest

from app.streaming.event_store import EventStore
from tests.field.proxies import Apache, Caddy, HAProxy, Nginx, Proxy, each_of
from tests.field.rolling import Load
from tests.processes import running
from tests.servers import ROOT, GatewayServer, wait_until

# Viewers over HTTP/1.1, and over HTTP/2. Apache serves few streams of a connection at once.
MANY = (80, 120)
SOME = (30, 4)

# Between two steps, so much is appended.
EVENTS = 30

pytestmark = pytest.mark.timeout(240)


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
def proxy(request, gateways, tmp_path) -> Iterator[Proxy]:
    first, second = gateways
    (tmp_path / "proxy").mkdir()
    with request.param(tmp_path / "proxy", first.port, other_port=second.port) as proxy:
        yield proxy


def lines_of(gateways: list[GatewayServer], text: str) -> int:
    """Return in how many lines of the gateways' logs a pattern is."""
    return sum(len(re.findall(text, gateway.log.read_text(), re.MULTILINE)) for gateway in gateways)


def viewers_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()]


class Outcome(NamedTuple):
    """What came of the load while the gateways were replaced."""

    load: Load
    viewers: list[dict]
    drained: int  # how many streams of viewers ended


def replace_all(
    gateways: list[GatewayServer],
    proxy: Proxy,
    store: EventStore,
    run_id: str,
    output: Path,
    replace: Callable[[GatewayServer], None],
    counts: tuple[int, int],
) -> Outcome:
    """Replace one gateway after the other under load. Nothing may be refused, lost or doubled."""
    store.add(run_id, "lifecycle", "started")
    program = [sys.executable, "-m", "tests.programs.viewers", proxy.tls_url, proxy.authority]
    program += [run_id, *map(str, counts)]
    load = Load(proxy.tls_url, str(proxy.authority), run_id, proxy.answers_early)
    with running(program, output, cwd=ROOT) as viewers:
        opened = f"stream opened run={run_id} "
        wait_until(lambda: lines_of(gateways, opened) == sum(counts), "all viewers are there", 60)
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
    assert load.refused == []
    seen = viewers_of(output)
    check_events(store, load, seen)
    drained = lines_of(gateways, rf"stream ended run={re.escape(run_id)} .*reason=draining")
    assert drained
    assert len(seen) == sum(counts)
    silences = sorted(viewer["longest_silence"] for viewer in seen)
    print(
        f"\n{proxy.program}, {replace.__name__}: {drained} streams ended and resumed; the longest "
        f"silence of a viewer: median {silences[len(silences) // 2]:.2f} s, maximum "
        f"{silences[-1]:.2f} s; the longest request: {load.longest_seconds:.2f} s"
    )
    return Outcome(load, seen, drained)


def check_events(store: EventStore, load: Load, viewers: list[dict]) -> None:
    """Assert that nothing was lost or doubled, in the log and at each viewer."""
    events = store.get_events(load.run_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    appended = [event for event in events if event.category == "llm"]
    assert Counter(event.data for event in appended) == Counter(load.stored.keys())
    assert all(load.stored[event.data] in (None, event.sequence) for event in appended)
    streamed = store.get_events(load.streamed)
    assert [event.data for event in streamed] == list(range(len(streamed)))
    assert load.acknowledged <= {(event.sequence, event.id) for event in streamed}
    for viewer in viewers:
        assert viewer["sequences"] == list(range(viewer["sequences"][0], len(events) + 1))
        assert (viewer["refused"], viewer["notices"]) == ([], [])


@pytest.mark.parametrize("replace", [reload, restart])
@pytest.mark.parametrize("proxy", each_of(LoggingNginx), indirect=True)
def test_each_request_is_answered_at_its_first_attempt_behind_nginx(
    gateways, proxy, store, run_id, tmp_path, replace
):
    output = tmp_path / "viewers"
    outcome = replace_all(gateways, proxy, store, run_id, output, replace, MANY)
    # A stream of lines ends when its worker stops, as the documents say.
    ended = {(f"/runs/{outcome.load.streamed}/events", "503")}
    statuses = {(path, status) for _, path, _, status in proxy.requests()}
    assert {each for each in statuses if each[1] not in ("200", "201", "204")} <= ended
    assert outcome.drained >= sum(MANY)
    followed = [each for each in proxy.requests() if each[1].endswith("/events/stream")]
    # Of the two workers of a gateway one stops a moment later: a client that comes back at once may
    # meet it, and is sent on by the end of an empty stream.
    sent_on = lines_of(gateways, "^.*stream refused .*about to stop")
    print(f"sent on by a worker that was stopping: {sent_on}")
    assert len(followed) == sum(MANY) + outcome.drained + sent_on
    assert {protocol for _, _, protocol, _ in followed} == {"HTTP/1.1", "HTTP/2.0"}


@pytest.mark.parametrize("proxy", each_of(HAProxy), indirect=True)
def test_no_request_is_refused_behind_haproxy(gateways, proxy, store, run_id, tmp_path):
    replace_all(gateways, proxy, store, run_id, tmp_path / "viewers", restart, SOME)


@pytest.mark.parametrize("proxy", each_of(Apache, Caddy), indirect=True)
def test_no_request_is_refused_behind_others_by_a_reload(gateways, proxy, store, run_id, tmp_path):
    """Behind these, a restart may cost a POST: see docs/deploy.md."""
    replace_all(gateways, proxy, store, run_id, tmp_path / "viewers", reload, SOME)
