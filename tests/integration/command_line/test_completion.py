"""Completion: the scripts, and what bash completes with its script."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.integration.command_line.running import environment, run
from tests.servers import ROOT

BASH = """
source <(tailrace completion bash)
COMP_WORDS=({words}) COMP_CWORD={at}
_tailrace_completion tailrace
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def path(folder):
    """Put a command `tailrace` on the path, as an installed one."""
    command = folder / "tailrace"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m app "$@"\n')
    command.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_it_can_parse(gateway, shell, folder):
    done = run(gateway.url, "completion", shell)
    assert done.returncode == 0
    assert done.stderr == b""
    assert b"_TAILRACE_COMPLETE=" in done.stdout
    assert b"tailrace" in done.stdout
    if shutil.which(shell):
        script = folder / "script"
        script.write_bytes(done.stdout)
        subprocess.run([shell, "-n", script], check=True, timeout=50)


def test_another_shell_is_a_usage_error(gateway):
    assert run(gateway.url, "completion", "tcsh").returncode == 64


def completed(url: str, path: str, *words: str) -> list[str]:
    script = BASH.format(words=" ".join(map(repr, words)), at=len(words) - 1)
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment(url, PATH=path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_and_options(gateway, path):
    assert completed(gateway.url, path, "tailrace", "ex") == ["export"]
    assert set(completed(gateway.url, path, "tailrace", "")) >= {"follow", "serve", "token"}
    assert completed(gateway.url, path, "tailrace", "follow", "--fr") == ["--from"]
    assert completed(gateway.url, path, "tailrace", "token", "--t") == ["--ttl"]
    assert completed(gateway.url, path, "tailrace", "completion", "z") == ["zsh"]


def test_bash_completes_runs_of_the_gateway(gateway, store, path, run_id):
    for name in ("one", "two"):
        store.add(f"{run_id}-{name}", "lifecycle", "started")
    found = completed(gateway.url, path, "tailrace", "follow", f"{run_id}-")
    assert sorted(found) == [f"{run_id}-one", f"{run_id}-two"]
    assert completed("http://127.0.0.1:1", path, "tailrace", "follow", "x") == []
