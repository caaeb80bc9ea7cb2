"""What the launcher prints, keeps and leaves behind when it stops or is killed."""

import contextlib
import json
import re
import signal
import sys

import psutil
import pytest
import requests

from tests.clients import Stream
from tests.integration.launcher.launched import (
    DRAIN_SECONDS,
    Directory,
    LaunchedGateway,
    own_port,
    own_url,
)
from tests.servers import ROOT, wait_until

# Output


def test_one_line_shows_the_urls_of_the_gateway_and_one_that_of_its_redis(home, gateway):
    serves, redis_url = gateway.out.splitlines()
    assert gateway.url in serves
    assert ".data" in serves
    assert redis_url == f"REDIS_URL={own_url(gateway)}"
    assert (home.directory / ".data" / "appendonlydir").is_dir()
    assert gateway.redis().net_connections("tcp")[0].laddr.port == own_port(gateway)


def test_of_its_own_redis_it_has_nothing_to_warn_of(home, gateway):
    ready = requests.get(f"{gateway.url}/readyz", timeout=20)
    assert ready.json() == {"status": "ready"}
    assert "warning" not in gateway.err


def test_a_redis_url_in_dotenv_is_used_and_no_redis_is_started(home, redis_server):
    (home.directory / ".env").write_text(f"REDIS_URL={redis_server.url}\n")
    gateway = home.launch().wait_until_it_serves()
    assert redis_server.url in gateway.out
    assert not (home.directory / ".data").exists()
    assert gateway.stop() == 0
    home.wait_until_empty()


def test_every_line_of_a_json_log_is_json_and_has_the_fields_of_its_stream_or_request(home):
    gateway = home.launch(LOG_FORMAT="json", ACCESS_LOG="true").wait_until_it_serves()
    gateway.append("started", "lifecycle")
    gateway.append("completed", "lifecycle")
    with Stream(f"{gateway.url}/runs/1/events/stream?last_event_id=0-0&") as stream:
        stream.wait_for_end()
    assert gateway.stop() == 0
    lines = [json.loads(line) for line in gateway.err.splitlines()]
    for line in lines:  # RFC 3339
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", line["time"])
    requested = [
        (line["method"], line["path"], line["status"])
        for line in lines
        if line["logger"] == "gunicorn.access" and line["path"] != "/readyz"
    ]
    assert requested == [
        ("POST", "/runs/1/events", 201),
        ("POST", "/runs/1/events", 201),
        ("GET", "/runs/1/events/stream", 200),
    ]
    [ended] = [line for line in lines if line["message"].startswith("stream ended")]
    assert (ended["level"], ended["logger"]) == ("INFO", "tailrace.stream")
    assert {"run": "1", "reason": "ended", "events": 2}.items() <= ended.items()
    assert 0 <= ended["seconds"] < 20


# Any directory


@pytest.mark.parametrize("command", ["launcher", "gunicorn"])
def test_it_starts_and_reloads_in_any_directory(home, redis_server, tmp_path_factory, command):
    """The directory may even hold modules of the same names."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("app.py", "wsgi.py"):
        (elsewhere / name).write_text("raise AssertionError('the wrong module')\n")
    checkout = Directory(elsewhere / "checkout")
    settings = {"REDIS_URL": redis_server.url}
    if command == "launcher":  # -P: as an installed program, Python does not look here first
        settings["PYTHONPATH"] = str(ROOT)
        gateway = LaunchedGateway(elsewhere, [sys.executable, "-P", "-m", "app"], **settings)
    else:
        (checkout.directory / ".env").write_text("LOG_FORMAT=json\n")  # is read there
        configuration = checkout.directory / "gunicorn.conf.py"
        words = [*("-c", str(configuration)), *("--chdir", "checkout"), "wsgi:app"]
        words = [sys.executable, "-Pm", "gunicorn", *words]
        gateway = LaunchedGateway(elsewhere, words, **settings)
    try:
        gateway.wait_until_it_serves()
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: gateway.err.count("Booting worker") == 2, "it has reloaded")
        wait_until(lambda: "Worker exiting" in gateway.err, "the old worker has ended")
        gateway.wait_until_it_serves()
        # The shared Redis has no append-only file, which the check of the settings warns of.
        logged = [each for each in gateway.err.splitlines() if "tailrace: warning" not in each]
        assert logged[0].startswith("{") is (command == "gunicorn")
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.output
    finally:
        checkout.end_all()
        with contextlib.suppress(psutil.NoSuchProcess):
            gateway.process.kill()
        gateway.process.wait()


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
