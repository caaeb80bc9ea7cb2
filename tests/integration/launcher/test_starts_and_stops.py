"""What the launcher prints, keeps and leaves behind when it stops or is killed."""

import json
import signal

import pytest

from tests.clients import Stream
from tests.integration.launcher.launched import DRAIN_SECONDS, Directory, own_port, own_url
from tests.servers import wait_until

# Output


def test_one_line_shows_the_urls_of_the_gateway_and_one_that_of_its_redis(home, gateway):
    serves, redis_url = gateway.out.splitlines()
    assert gateway.url in serves
    assert ".data" in serves
    assert redis_url == f"REDIS_URL={own_url(gateway)}"
    assert (home.directory / ".data" / "appendonlydir").is_dir()
    assert gateway.redis().net_connections("tcp")[0].laddr.port == own_port(gateway)


def test_a_redis_url_in_dotenv_is_used_and_no_redis_is_started(home, redis_server):
    (home.directory / ".env").write_text(f"REDIS_URL={redis_server.url}\n")
    gateway = home.launch().wait_until_it_serves()
    assert redis_server.url in gateway.out
    assert not (home.directory / ".data").exists()
    assert gateway.stop() == 0
    home.wait_until_empty()


def test_every_line_of_a_json_log_is_json_and_a_streams_end_has_its_fields(home):
    gateway = home.launch(LOG_FORMAT="json").wait_until_it_serves()
    gateway.append("started", "lifecycle")
    gateway.append("completed", "lifecycle")
    with Stream(f"{gateway.url}/runs/1/events/stream?") as stream:
        stream.wait_for_end()
    assert gateway.stop() == 0
    lines = [json.loads(line) for line in gateway.err.splitlines()]
    [ended] = [line for line in lines if line["message"].startswith("stream ended")]
    assert (ended["level"], ended["logger"]) == ("INFO", "tailrace.stream")
    assert {"run": "1", "reason": "ended", "events": 2}.items() <= ended.items()
    assert 0 <= ended["seconds"] < 20


# Stops and kills


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_events_survive_a_stop_and_no_process_does(home, gateway, number):
    gateway.append()
    assert gateway.stop(number) == 0
    home.wait_until_empty()
    assert "Traceback" not in gateway.output
    again = home.launch().wait_until_it_serves()
    again.append()
    assert again.sequences() == [1, 2]


@pytest.mark.parametrize("which", ["process", "master"])
def test_events_survive_kill_9_and_no_process_does(home, gateway, which):
    gateway.append()
    with Stream(f"{gateway.url}/runs/1/events/stream?") as stream:
        stream.wait_for_control("caught_up")
        victim = gateway.process if which == "process" else gateway.master()
        victim.kill()
        assert gateway.process.wait(30) != 0
        home.wait_until_empty()
        stream.wait_for_end()
    again = home.launch().wait_until_it_serves()
    again.append()
    assert again.sequences() == [1, 2]


def test_a_killed_redis_is_started_again_on_its_port_with_its_data(home, gateway):
    gateway.append()
    with Stream(f"{gateway.url}/runs/1/events/stream?") as stream:
        stream.wait_for_control("caught_up")
        first = gateway.redis()
        first.kill()
        wait_until(lambda: not first.is_running(), "the killed Redis is gone")
        assert gateway.redis().pid != first.pid
        gateway.wait_until_it_serves()
        gateway.append()
        stream.wait_for_events(2)
    assert stream.sequences == [1, 2]
    assert {link.laddr.port for link in gateway.redis().net_connections("tcp")} == {
        own_port(gateway)
    }
    assert gateway.stop() == 0
    home.wait_until_empty()


def test_a_gateway_that_starts_right_after_kill_9_has_the_same_data(home, gateway):
    gateway.append()
    gateway.process.kill()
    again = home.launch(PORT=gateway.port)
    wait_until(lambda: "REDIS_URL=" in again.out, "its Redis has started")
    again.wait_until_it_serves()
    again.append()
    assert again.sequences() == [1, 2]
    assert len(home.processes()) == 5  # the launcher, its reaper, Redis, the master, a worker


def test_a_second_gateway_in_one_directory_stops_with_the_reason(home, gateway):
    second = home.launch()
    assert second.process.wait(60) != 0
    assert "in use by another gateway" in second.err
    assert "Traceback" not in second.output
    assert second.out == ""
    gateway.append()
    assert gateway.sequences() == [1]


def test_two_gateways_in_two_directories_have_two_redis_servers(home, gateway, tmp_path_factory):
    other = Directory(tmp_path_factory.mktemp("other"))
    try:
        neighbour = other.launch().wait_until_it_serves()
        gateway.append()
        assert neighbour.sequences() == []
        assert own_port(neighbour) != own_port(gateway)
    finally:
        other.end_all()


def test_a_launcher_whose_reaper_was_killed_stops_cleanly(home, gateway):
    gateway.reaper().kill()
    assert gateway.stop() == 0
    home.wait_until_empty()
    assert "Traceback" not in gateway.output


def test_sigterm_ends_an_open_stream_with_a_retry_and_exits_in_time(home, gateway):
    gateway.append()
    with Stream(f"{gateway.url}/runs/1/events/stream?") as stream:
        stream.wait_for_control("caught_up")
        stream.retry = None
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(DRAIN_SECONDS + 8) == 0
        stream.wait_for_end()
    assert stream.error is None
    assert stream.retry is not None
    assert "reason=draining" in gateway.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_gunicorn_starts_is_clean(home, number):
    gateway = home.launch()
    gateway.master()
    assert gateway.stop(number) == 0
    home.wait_until_empty()
    assert "Traceback" not in gateway.output
