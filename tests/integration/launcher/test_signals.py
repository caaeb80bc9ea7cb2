"""Signals at any moment: while the gateway starts, cannot accept, reloads, or all stop at once."""

import contextlib
import os
import signal
import socket

import psutil
import pytest

from tests.clients import Stream
from tests.integration.launcher.launched import GUNICORN, LAUNCHER, Directory, LaunchedGateway
from tests.servers import free_port, wait_until

BOTH = pytest.mark.parametrize("command", [LAUNCHER, GUNICORN], ids=["launcher", "gunicorn"])
# A stop that waits for its drain takes longer than any test.
FOR_EVER = 3600


def start(home: Directory, command: list[str], redis_url: str, **settings: object):
    """Launch a gateway on a Redis that runs already; it may not serve yet."""
    return home.launch(command, REDIS_URL=redis_url, **settings)


def workers(gateway: LaunchedGateway, command: list[str]) -> list[psutil.Process]:
    """Return the workers, of which there may be none yet."""
    with contextlib.suppress(psutil.Error):
        master = gateway.master() if command is LAUNCHER else gateway.process
        return [each for each in master.children() if "check" not in each.cmdline()]
    return []


@contextlib.contextmanager
def opened_stream(gateway: LaunchedGateway):
    gateway.append()
    with Stream(f"{gateway.url}/runs/1/events/stream?") as stream:
        stream.wait_for_control("caught_up")
        stream.retry = None
        yield stream


def assert_drained(gateway: LaunchedGateway, stream: Stream) -> None:
    stream.wait_for_end()
    assert stream.error is None
    assert 50 <= stream.retry <= 500
    wait_until(lambda: "reason=draining" in gateway.err, "the end of the stream is logged")
    assert "Traceback" not in gateway.output
    assert "SIGKILL" not in gateway.err


# The first seconds


@BOTH
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_reload_or_new_log_files_asked_for_during_the_start_change_nothing(
    home, redis_server, command, number
):
    gateway = start(home, command, redis_server.url)
    if command is LAUNCHER:
        gateway.reaper()  # Python has started, and imports the rest
    else:
        wait_until(
            lambda: any("check" in each.cmdline() for each in gateway.process.children()),
            "the settings are checked",
        )
    gateway.process.send_signal(number)
    gateway.wait_until_it_serves()
    wait_until(
        lambda: f"Handling signal: {number.name[3:].lower()}" in gateway.err, "it is handled"
    )
    with opened_stream(gateway) as stream:
        assert gateway.stop() == 0
        assert_drained(gateway, stream)
    home.wait_until_empty()


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_a_worker_boots_is_not_lost(home, redis_server, command, number):
    gateway = start(home, command, redis_server.url, DRAIN_SECONDS=FOR_EVER)
    wait_until(lambda: "Booting worker" in gateway.err, "a worker boots")
    assert gateway.stop(number) == 0
    home.wait_until_empty()
    assert "Traceback" not in gateway.output


# Stops


def test_a_stop_with_one_viewer_does_not_wait_for_others_that_are_not_there(home, redis_server):
    gateway = start(home, LAUNCHER, redis_server.url, DRAIN_SECONDS=FOR_EVER).wait_until_it_serves()
    with opened_stream(gateway) as stream:
        assert gateway.stop() == 0
        assert_drained(gateway, stream)


def test_sigterm_to_all_processes_at_once_drains_and_then_ends_redis(home, gateway):
    redis = gateway.redis()
    with opened_stream(gateway) as stream:
        for process in home.processes():
            process.send_signal(signal.SIGTERM)
        assert_drained(gateway, stream)
        assert gateway.process.wait(30) == 0
    home.wait_until_empty()
    assert not redis.is_running()
    assert "has died" not in gateway.err
    again = home.launch().wait_until_it_serves()
    assert again.sequences() == [1]


def test_sigusr2_says_that_it_does_nothing(home, gateway):
    gateway.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "SIGUSR2 does nothing" in gateway.err, "it is refused")
    gateway.append()
    assert gateway.stop() == 0


@BOTH
def test_a_reload_and_a_stop_for_all_processes_leave_the_workers_to_the_master(
    home, redis_server, command
):
    gateway = start(home, command, redis_server.url).wait_until_it_serves()
    [old] = workers(gateway, command)
    with opened_stream(gateway) as stream:
        for number in (signal.SIGUSR2, signal.SIGHUP):
            old.send_signal(number)
        gateway.append()
        stream.wait_for_events(2)
        assert old.is_running()


# Reloads


def test_a_reload_works_while_the_backlog_is_full(home, redis_server):
    gateway = start(home, LAUNCHER, redis_server.url, GUNICORN_CMD_ARGS="--backlog 1")
    gateway.wait_until_it_serves()
    [old] = workers(gateway, LAUNCHER)
    with contextlib.ExitStack() as stack:
        old.suspend()
        fill_backlog(gateway.port, stack)
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(workers(gateway, LAUNCHER)) == 2, "a new worker starts")
        old.resume()
    wait_until(lambda: not old.is_running(), "the old worker ends")
    with opened_stream(gateway) as stream:
        assert gateway.stop() == 0
        assert_drained(gateway, stream)


def fill_backlog(port: int, stack: contextlib.ExitStack) -> None:
    """Connect until a connection is not accepted."""
    while True:
        client = stack.enter_context(socket.socket())
        client.settimeout(0.5)
        try:
            client.connect(("127.0.0.1", port))
        except TimeoutError:
            return


def test_a_stop_drains_after_a_reload_with_another_port(home, redis_server):
    dotenv = home.directory / ".env"
    dotenv.write_text(f"PORT={free_port()}\n")
    gateway = start(home, LAUNCHER, redis_server.url, PORT="")
    gateway.move_to(int(dotenv.read_text().partition("=")[2]))
    gateway.wait_until_it_serves()
    port = free_port()
    dotenv.write_text(f"PORT={port}\n")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.move_to(port)
    gateway.wait_until_it_serves()
    with opened_stream(gateway) as stream:
        assert gateway.stop() == 0
        assert_drained(gateway, stream)


def test_after_a_reload_clients_return_within_a_second(home, redis_server):
    gateway = start(home, LAUNCHER, redis_server.url).wait_until_it_serves()
    with opened_stream(gateway) as stream:
        gateway.process.send_signal(signal.SIGHUP)
        assert_drained(gateway, stream)
    assert gateway.status("readyz") == 200


def test_a_stop_is_not_delayed_by_the_drain_of_a_reload(home, redis_server):
    gateway = start(home, LAUNCHER, redis_server.url, DRAIN_SECONDS=FOR_EVER)
    gateway.wait_until_it_serves()
    with opened_stream(gateway), opened_stream(gateway):
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reason=draining" in gateway.err, "the old worker drains")
        assert gateway.stop(signal.SIGINT) == 0


# What the environment may hold


@BOTH
def test_a_script_name_in_the_environment_is_no_prefix(home, redis_server, command):
    gateway = start(home, command, redis_server.url, SCRIPT_NAME="/run.sh")
    gateway.wait_until_it_serves()
    gateway.append()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="only Linux has /dev/shm")
def test_the_files_that_workers_touch_are_in_memory(home, redis_server):
    gateway = start(home, GUNICORN, redis_server.url, TMPDIR=home.directory).wait_until_it_serves()
    [worker] = workers(gateway, GUNICORN)
    files = [os.readlink(path) for path in os.scandir(f"/proc/{worker.pid}/fd")]
    assert any(name.startswith("/dev/shm/wgunicorn-") for name in files)
    assert not any(name.startswith(f"{home.directory}/wgunicorn-") for name in files)
