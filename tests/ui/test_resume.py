"""The page of a run through crashes, restarts and outages: every event once."""

import signal

import pytest

from app.client import Client
from tests.field.reloads import replace_worker
from tests.servers import GatewayServer

# As if another tab were in front of it.
HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
BREAKS = ("ERR_", "status of 5", "Failed to load resource")


@pytest.fixture
def own_gateway(redis_server, tmp_path):
    settings = {"RETRY_MS": 200, "HEARTBEAT_SECONDS": 1}
    with GatewayServer(redis_server.url, tmp_path / "log", **settings) as gateway:
        yield gateway


def test_a_page_misses_nothing_over_crashes_and_rolling_restarts(run_id, open_run, own_gateway):
    run = open_run(run_id, url=own_gateway.url, expected=BREAKS)
    client = Client(own_gateway.url)
    run.wait_for_state("live")
    sent = 0
    with client.appender(run_id) as appender:
        for how in (signal.SIGKILL, signal.SIGHUP, signal.SIGKILL, signal.SIGHUP):
            for _ in range(200):
                sent += 1
                appender.emit("log", "line", f"line {sent}")
                run.page.wait_for_timeout(2)
            replace_worker(own_gateway, how)
        appender.emit("lifecycle", "completed")
    run.wait_for_events(sent + 1, 40)
    run.wait_for_state("ended")
    assert run.page.is_hidden("#notable")
    assert run.all_sequences() == list(range(1, sent + 2))


def test_a_gateway_that_is_away_is_told_and_waited_for(store, run_id, open_run, own_gateway):
    store.add(run_id, "log", "line", 1)
    run = open_run(run_id, url=own_gateway.url, expected=BREAKS)
    run.wait_for_events(1)
    own_gateway.stop()
    run.wait_for_state("reconnecting")
    assert run.page.get_attribute("#connection", "title")
    store.add(run_id, "log", "line", 2)
    own_gateway.start()
    run.wait_for_events(2, 40)
    run.wait_for_state("live")
    assert run.sequences() == [1, 2]


def test_a_page_that_was_hidden_shows_everything_when_it_is_seen_again(store, run_id, open_run):
    run = open_run(run_id)
    run.wait_for_state("live")
    run.page.evaluate(HIDE, True)
    for number in range(5):
        store.add(run_id, "log", "line", number)
    run.page.wait_for_timeout(500)
    assert run.rows() == []
    run.page.evaluate(HIDE, False)
    run.wait_for_events(5)
    assert run.sequences() == [1, 2, 3, 4, 5]
