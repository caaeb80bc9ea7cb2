"""A reload runs the code that is on disk then, and all of it."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import requests

from tests.servers import ROOT, GatewayServer, RedisServer, wait_until


class CopiedGateway(GatewayServer):
    """A gateway that runs from a copy of the checkout."""

    def __init__(self, copy: Path, redis: RedisServer):
        super().__init__(redis.url, copy / "log", directory=copy)
        for name in ("wsgi.py", "gunicorn.conf.py"):
            shutil.copy(ROOT / name, copy)
        shutil.copytree(ROOT / "app", copy / "app", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def copied(tmp_path, redis_server):
    with CopiedGateway(tmp_path, redis_server) as gateway:
        yield gateway


def test_a_reload_does_not_mix_new_code_with_old(copied, tmp_path, run_id):
    """The master process imports some modules of the app, and the workers inherit them."""
    [old] = copied.workers()
    for module in (tmp_path / "app").rglob("*.py"):
        text = module.read_text()
        module.write_text(text.replace("STALLED_SECONDS", "STALLED_CLIENT_SECONDS"))
    os.kill(copied.process.pid, signal.SIGHUP)
    wait_until(lambda: copied.workers() and old not in copied.workers(), "the worker is new", 50)
    event = {"event_category": "llm", "event_action": "stream"}
    assert requests.post(f"{copied.url}/runs/{run_id}/events", json=event).status_code == 201
    assert requests.get(f"{copied.url}/runs/{run_id}/events").status_code == 200


@pytest.mark.parametrize("statement", ["raise RuntimeError", "import there_is_no_such_module"])
def test_after_a_reload_with_an_error_in_the_new_code_the_old_workers_go_on(
    copied, tmp_path, run_id, statement
):
    [old] = copied.workers()
    module = tmp_path / "app" / "wiring.py"
    right = module.read_text()
    module.write_text(f"{right}\n{statement}\n")
    os.kill(copied.process.pid, signal.SIGHUP)
    wait_until(lambda: "exited with code" in copied.log.read_text(), "the new worker ends", 50)
    wait_until(lambda: copied.workers() == [old], "the old one is left")
    url = f"{copied.url}/runs/{run_id}/events"
    event = {"event_category": "llm", "event_action": "stream"}
    assert requests.post(url, json=event).status_code == 201
    module.write_text(right)
    os.kill(copied.process.pid, signal.SIGHUP)
    wait_until(lambda: copied.workers() and old not in copied.workers(), "the worker is new", 50)
    assert requests.get(url).status_code == 200
    text = copied.log.read_text()
    copied.log.write_text(text.replace("Traceback", "traceback"))  # that of the wrong code
