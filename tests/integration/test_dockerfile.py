"""The image's base and user, and its health check, run against a real gateway."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.servers import ROOT, GatewayServer, free_port


def check_health(default_port: int, port: str) -> int:
    """Run the check as Docker does, in an environment with a proxy; return the exit status."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    command = re.search(r"HEALTHCHECK .*\\\n +CMD python (.*)\n", dockerfile)[1]
    assert "8082" in command
    command = f"{sys.executable} {command.replace('8082', str(default_port))}"
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    environ = {**os.environ, **proxies, "PORT": port}
    done = subprocess.run(command, shell=True, env=environ, stderr=subprocess.DEVNULL)
    return done.returncode


@pytest.mark.parametrize("is_named", [True, False])
def test_the_health_check_uses_no_proxy_and_takes_an_empty_port_for_none(
    gateway: GatewayServer, is_named: bool
):
    default, named = (free_port(), str(gateway.port)) if is_named else (gateway.port, "")
    assert check_health(default, named) == 0


def test_the_health_check_fails_if_nothing_listens():
    assert check_health(free_port(), "") != 0


def test_the_base_has_a_full_version_and_takes_a_digest():
    text = (ROOT / "Dockerfile").read_text()
    [base] = re.findall(r"^FROM (\S+)$", text, re.MULTILINE)
    assert re.fullmatch(
        r"python:3\.\d+\.\d+-slim-[a-z]+\$\{PYTHON_DIGEST:\+@\$PYTHON_DIGEST\}", base
    )
    assert text.index("ARG PYTHON_DIGEST\n") < text.index("FROM ")


def test_the_image_holds_the_bytecode_of_its_sources(tmp_path):
    """Its user cannot write any. The times of files may change while an image is built."""
    text = (ROOT / "Dockerfile").read_text()
    without_bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=without_bytecode)
    shutil.copytree(ROOT / "clients", tmp_path / "clients", ignore=without_bytecode)
    shutil.copy(ROOT / "wsgi.py", tmp_path)
    [arguments] = re.findall(r"^RUN python (-m compileall .*)$", text, re.MULTILINE)
    subprocess.run([sys.executable, *arguments.split()], cwd=tmp_path, check=True)
    for source in tmp_path.rglob("*.py"):
        os.utime(source, (0, 0))
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ |= {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-v", "-c", "import wsgi"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    loaded = re.findall(rf"^# code object from '?{tmp_path}/(.*?)'?$", done.stderr, re.MULTILINE)
    assert any("app/__pycache__/wiring." in name for name in loaded)
    assert [name for name in loaded if not name.endswith(".pyc")] == []


def test_the_image_runs_as_a_numbered_user_to_whom_the_data_belong():
    text = (ROOT / "Dockerfile").read_text()
    [user] = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert f"mkdir .data && chown {user} .data" in text
