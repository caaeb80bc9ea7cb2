"""What clients see while workers are killed, and how they come through every replacement."""

import signal

import psutil
import requests

from app.streaming.event_store import EventStore
from tests.integration.rolling.background import (
    DRAIN_SECONDS,
    GRACE_SECONDS,
    Follower,
    StreamBody,
    appending,
    listens,
    post,
)
from tests.processes import run_node, sequences_of
from tests.raw_http import stream_path
from tests.servers import GatewayServer, wait_until


def test_a_killed_worker_is_replaced_and_streams_of_the_other_worker_go_on(start_gateway, run_id):
    gateway = start_gateway(WEB_CONCURRENCY=2)
    killed, neighbour = wait_until(lambda: _two_workers(gateway), "both workers listen")
    cut = _opened_on(killed, neighbour, gateway, run_id)
    going_on = _opened_on(neighbour, killed, gateway, run_id)
    assert post(gateway, run_id, "1").status_code == 201
    for stream in (*cut, *going_on):
        stream.wait_for('"sequence":1')
    killed.kill()
    assert post(gateway, run_id, "2").status_code == 201
    for stream in going_on:
        stream.wait_for('"sequence":2')
    for stream in cut:
        stream.wait_for_end()
        assert stream.sequences == [1]
    workers = wait_until(lambda: _two_workers(gateway), "a new worker listens")
    assert neighbour in workers
    assert killed not in workers
    [new] = set(workers) - {neighbour}
    for stream in _opened_on(new, neighbour, gateway, run_id):
        stream.wait_for('"sequence":2')
    assert not any(stream.ended_at for stream in going_on)


def _two_workers(gateway: GatewayServer) -> list[psutil.Process] | None:
    workers = [worker for worker in gateway.workers() if listens(worker)]
    return workers if len(workers) == 2 else None


def _opened_on(
    worker: psutil.Process, other: psutil.Process, gateway: GatewayServer, run_id: str
) -> list[StreamBody]:
    """Open two streams that one worker serves. The other one is suspended meanwhile."""
    other.suspend()
    try:
        bodies = [StreamBody(gateway, run_id) for _ in range(2)]
        for body in bodies:
            body.wait_for("gateway.caught_up")
    finally:
        other.resume()
    return bodies


# Clients that come back


def reload(gateway: GatewayServer) -> None:
    [former] = gateway.workers()
    gateway.process.send_signal(signal.SIGHUP)
    former.wait(DRAIN_SECONDS + GRACE_SECONDS)


def restart(gateway: GatewayServer) -> None:
    assert gateway.stop(signal.SIGTERM) == 0
    gateway.start()


def kill_worker(gateway: GatewayServer) -> None:
    [worker] = gateway.workers()
    worker.kill()
    wait_until(lambda: any(map(listens, gateway.workers())), "a new worker listens")


def test_no_event_is_lost_or_doubled_while_the_gateway_is_replaced_in_every_way(
    start_gateway, store: EventStore, run_id, tmp_path
):
    gateway = start_gateway(RETRY_MS=50)
    url = f"{gateway.url}{stream_path(run_id)}"
    appended: list[str] = []

    def accepted(key: str, **event: object) -> bool:
        try:
            answer = post(gateway, run_id, key, **event)
        except requests.ConnectionError:
            return False
        assert answer.status_code in (200, 201, 503)
        return answer.status_code != 503

    def append(number: int) -> None:
        wait_until(lambda: accepted(f"n{number}"), f"append {number} is accepted")
        appended.append(f"n{number}")

    with run_node("follow.mjs", tmp_path / "browser", url) as browser:
        followers = [Follower(url, {"Accept": "text/event-stream"}), Follower(url, {})]
        with appending(append):
            for replace in (reload, kill_worker, restart):
                before = len(appended)
                wait_until(lambda before=before: len(appended) > before + 20, "appends go on")
                replace(gateway)
        end = {"event_category": "lifecycle", "event_action": "completed"}
        wait_until(lambda: accepted("end", **end), "the end is accepted")
        lines = browser.finish()
    expected = list(range(1, len(appended) + 2))
    assert [event.sequence for event in store.get_events(run_id)] == expected
    assert sequences_of(lines) == expected
    assert [line["what"] for line in lines].count("error") >= 3
    for follower in followers:
        assert follower.finish() == expected
        assert follower.connections > 3
    names = {line["what"] for line in lines} | {name for each in followers for name in each.names}
    assert not names & {"gateway.gap", "gateway.reset"}
