"""gunicorn's master process: the settings that it reads, its reloads, its log, its errors."""

import logging
import resource
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
from gunicorn import systemd
from gunicorn.config import Config

from app.server import arbiter


@pytest.fixture(autouse=True)
def unchanged_gunicorn(monkeypatch):
    """Undo afterwards what a start of the master changes in gunicorn."""
    monkeypatch.setattr(systemd, "sd_notify", systemd.sd_notify)


def use_check(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Replace the command that checks the settings by a Python program."""
    monkeypatch.setattr(arbiter, "_CHECK", (sys.executable, "-c", program))


def master(**methods: object) -> SimpleNamespace:
    """Return what `on_starting` changes of gunicorn's master."""
    unchanged = dict.fromkeys(("reload", "spawn_worker", "reap_workers", "manage_workers"))
    return SimpleNamespace(**{**unchanged, "worker_class": None, "log": None, **methods})


def test_the_settings_are_read_from_the_check(monkeypatch):
    use_check(monkeypatch, "print('{\"port\": 8082}')")
    assert arbiter.read_settings() == {"port": 8082}


def test_wrong_settings_end_the_master_with_the_status_of_the_check(monkeypatch):
    use_check(monkeypatch, "exit(3)")
    with pytest.raises(SystemExit) as error:
        arbiter.read_settings()
    assert error.value.code == 3


SHOW = 'print(\'{"has_authentication": %s, "allow_anonymous": %s}\')'


@pytest.mark.parametrize(
    ("program", "address", "reloads"),
    [
        (SHOW % ("true", "false"), ("0.0.0.0", 80), 1),
        (SHOW % ("false", "true"), ("::", 80, 0, 0), 1),
        (SHOW % ("false", "false"), ("127.0.0.1", 80), 1),
        (SHOW % ("false", "false"), "/run/socket", 1),
        (SHOW % ("false", "false"), ("0.0.0.0", 80), 0),
        (SHOW % ("false", "false"), ("::", 80, 0, 0), 0),
        ("exit(1)", ("127.0.0.1", 80), 0),
    ],
)
def test_a_reload_with_wrong_settings_is_refused(monkeypatch, caplog, program, address, reloads):
    use_check(monkeypatch, program)
    monkeypatch.setattr(resource, "setrlimit", lambda *limits: None)
    reloaded: list[bool] = []
    listener = SimpleNamespace(sock=SimpleNamespace(getsockname=lambda: address))
    server = master(reload=lambda: reloaded.append(True), LISTENERS=[listener])
    # gunicorn's logger, where another test has made one, hides its lines from caplog.
    monkeypatch.setattr(logging.getLogger("gunicorn.error"), "propagate", True)
    arbiter.on_starting(server)
    server.reload()
    assert len(reloaded) == reloads
    assert ("not reloaded" in caplog.text) is not bool(reloads)


def test_the_master_allows_as_many_open_files_as_the_system_permits(monkeypatch):
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    arbiter.on_starting(master())
    assert limits == [(resource.RLIMIT_NOFILE, (4096, 4096))]


def test_the_master_starts_when_the_limit_of_open_files_cannot_be_raised(monkeypatch):
    def refuse(*limit):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    arbiter.on_starting(master())


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_a_line_of_the_access_log_has_no_query_and_is_written_only_if_it_is_on(
    monkeypatch, caplog, level
):
    logger = arbiter.AccessLogger(Config())
    monkeypatch.setattr(logger, "access_log", logging.getLogger("access-of-a-test"))
    caplog.set_level(level, "access-of-a-test")
    environ = {"REQUEST_METHOD": "GET", "RAW_URI": "/a%20b?token=x", "REMOTE_ADDR": "::1"}
    environ["HTTP_X_REQUEST_ID"] = "a-1"
    response = SimpleNamespace(status="200 OK", status_code=200, sent=7)
    logger.access(response, None, environ, timedelta(seconds=1.5))
    line = "request client=::1 method=GET path=/a%20b status=200 bytes=7 seconds=1.5 request_id=a-1"
    assert [each.getMessage() for each in caplog.records] == [line] * (level == logging.INFO)


def test_a_worker_gets_a_row_of_metrics_and_leaves_it_to_the_next():
    server, workers = SimpleNamespace(), [SimpleNamespace() for _ in range(3)]
    for worker in workers[:2]:
        arbiter.pre_fork(server, worker)
    arbiter.child_exit(server, workers[0])
    arbiter.pre_fork(server, workers[2])
    assert [worker.metric_row.number for worker in workers] == [0, 1, 0]


def test_a_worker_of_before_an_upgrade_has_no_row_to_leave():
    arbiter.child_exit(SimpleNamespace(), SimpleNamespace())
