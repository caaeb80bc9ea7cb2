"""What `make` does with a Python that cannot be used, and what it says of npm."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

NODE = "tests/integration/node"

# Programs that behave as such a Python does.
AS_IF_OLD = "import sys; sys.version_info = (3, 10, 1, 'final', 0); exec(sys.argv[1])"
WITHOUT_PIP = "import importlib.util as u, sys; u.find_spec = lambda name: None; exec(sys.argv[1])"

# To install pip takes ten seconds.
MAKES_VENV_WITH_EMPTY_PIP = f"""#!/bin/sh -e
if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi
{sys.executable} -m venv --without-pip "$3"
pip=$("$3/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/pip
mkdir "$pip"
touch "$pip/__init__.py"
echo 'import sys; print(*sys.argv[1:], file=open("pip-was-called-with", "w"))' > "$pip/__main__.py"
"""

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None and "CI" not in os.environ, reason="make is not installed"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing to install."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "app.py").touch()
    return tmp_path


def make(checkout: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *words], cwd=checkout, capture_output=True, text=True)


def write_python(path: Path, program: str) -> None:
    """Write a Python that carries out the program; the code it is given is its argument."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$2"\n')
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (AS_IF_OLD, "is Python 3.10, and Tailrace needs 3.11 or newer"),
        (WITHOUT_PIP, "has no pip"),
        ("raise SystemExit(1)", "does not run"),
    ],
)
def test_a_venv_that_cannot_be_used_is_replaced_and_the_reason_is_said(checkout, program, reason):
    write_python(checkout / ".venv" / "bin" / "python", program)
    (checkout / ".venv" / "installed").touch()
    done = make(checkout, "help")
    assert f"replacing .venv: its Python {reason}" in done.stdout
    assert done.returncode == 0
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("program", "reason"),
    [(AS_IF_OLD, "is Python 3.10, and Tailrace needs 3.11"), ("exit(1)", "does not run")],
)
def test_a_python_that_cannot_be_used_is_refused_and_another_is_suggested(
    checkout, program, reason
):
    write_python(checkout / "python", program)
    done = make(checkout, ".venv/installed", f"PYTHON={checkout}/python")
    assert done.returncode == 2
    assert f"{checkout}/python {reason}" in done.stderr
    assert "make PYTHON=python3.13" in done.stderr
    assert not (checkout / ".venv").exists()


def test_the_python_that_make_installs_finds_the_checkout_from_any_directory(checkout):
    (checkout / "python").write_text(MAKES_VENV_WITH_EMPTY_PIP)
    (checkout / "python").chmod(0o755)
    done = make(checkout, ".venv/installed", f"PYTHON={checkout}/python")
    assert done.returncode == 0, done.stderr
    python = checkout / ".venv" / "bin" / "python"
    subprocess.run([python, "-c", "import app"], cwd="/", check=True)
    assert "replacing" not in make(checkout, "help").stdout
    assert python.exists()
    words = (checkout / "pip-was-called-with").read_text().split()
    assert words[0] == "install"
    assert words[-3:] == ["--require-hashes", "-r", "requirements.txt"]


def test_npm_says_why_it_has_failed(checkout):
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / NODE).mkdir(parents=True)
    (checkout / NODE / "package.json").write_text('{"dependencies": {"a": "file:no.tgz"}}')
    (checkout / NODE / "package-lock.json").write_text('{"lockfileVersion": 3, "packages": {}}')
    done = make(checkout, "-o", ".venv/installed-dev", f"{NODE}/node_modules")
    assert done.returncode == 2
    assert "npm error" in done.stdout + done.stderr
