"""The wheel, installed into empty environments: the client, the event store, the gateway."""

import os
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import requests

from app import __version__
from tests.servers import ROOT, free_port, wait_until

# Packages are installed here, which may take long.
pytestmark = pytest.mark.timeout(300)

PROGRAMS = ROOT / "tests" / "programs"

# Everything that is not the client's.
SERVER_ONLY = ("flask", "gevent", "gunicorn", "marshmallow", "redis", "hiredis", "dotenv")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", *build, str(ROOT)], check=True)
    [built] = folder.glob("*.whl")
    return built


class Environment:
    """A virtual environment that holds the wheel with some extras, and an empty folder."""

    def __init__(self, folder: Path, wheel: Path, extras: str):
        venv.create(folder / "env", symlinks=True)
        self.bin = folder / "env" / "bin"
        self.empty = folder / "empty"
        self.empty.mkdir()
        # A user's own `app` must neither hide the package nor be hidden by it.
        (self.empty / "app.py").write_text("raise AssertionError('the wrong app')\n")
        install = [
            "pip",
            "--python",
            str(self.bin / "python"),
            "install",
            "--quiet",
            "--no-compile",
        ]
        pins = folder / "pins.txt"
        pinned = (ROOT / "requirements.txt").read_text()
        # With hashes pip would ask for one of the wheel too, which was built just now.
        pins.write_text(re.sub(r" \\\n +--hash=\S+", "", pinned))
        install += ["-c", str(pins), f"{wheel}{extras}"]
        subprocess.run([sys.executable, "-m", *install], check=True)
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "REDIS_URL")
        }

    def run(self, *arguments: object) -> str:
        """Run Python there, and return what it prints."""
        command = [self.bin / "python", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.empty, env=self.environ, capture_output=True, text=True, timeout=50
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def has(self, package: str) -> bool:
        found = f"import importlib.util as u; print(u.find_spec({package!r}) is not None)"
        return self.run("-c", found).strip() == "True"


@pytest.fixture(scope="module")
def client_only(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    return Environment(tmp_path_factory.mktemp("client"), wheel, "")


def test_without_extras_the_wheel_is_the_client_alone(client_only, gateway, run_id):
    environment = client_only
    assert [package for package in SERVER_ONLY if environment.has(package)] == []
    printed = environment.run(PROGRAMS / "installed_client.py", gateway.url, run_id)
    assert printed.split() == ["lifecycle.started", "llm.stream", "lifecycle.completed"]
    tailrace = subprocess.run(
        [environment.bin / "tailrace"], cwd=environment.empty, capture_output=True, text=True
    )
    assert tailrace.returncode == 1
    assert "install Tailrace with [server]" in tailrace.stderr
    assert "Traceback" not in tailrace.stderr


def test_the_client_commands_need_no_extra(client_only, gateway, run_id):
    environ = {**client_only.environ, "TAILRACE_URL": gateway.url}

    def tailrace(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [client_only.bin / "tailrace", *arguments],
            cwd=client_only.empty, env=environ, input=stdin, capture_output=True, text=True,
            timeout=50,
        )  # fmt: skip

    assert tailrace("pipe", run_id, "--lifecycle", stdin="one\ntwo\n").returncode == 0
    assert tailrace("follow", run_id, "--text").stdout == "one\ntwo\n"
    assert run_id in tailrace("runs").stdout
    exported = tailrace("export", run_id).stdout
    assert tailrace("import", "--run", f"{run_id}x", stdin=exported).returncode == 0
    assert tailrace("--help").stdout.startswith("usage: tailrace ")
    assert "tailrace" in tailrace("completion", "fish").stdout
    for command in ("serve", "check", "token"):
        done = tailrace(command)
        assert done.returncode == 1
        assert "install Tailrace with [server]" in done.stderr


def test_without_async_the_client_for_asyncio_says_what_is_missing(client_only):
    script = (
        "try:\n    import tailrace.async_client\n"
        "except ImportError as error:\n    print(error)\n"
        "import tailrace.logging"
    )
    printed = client_only.run("-c", script)
    assert printed == "AsyncClient requires httpx: install Tailrace with [async]\n"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "langchain",
            "RunCallbackHandler requires langchain-core: install Tailrace with [langchain]",
        ),
        (
            "openai_agents",
            "RunRecorder requires openai-agents: install Tailrace with [openai-agents]",
        ),
        (
            "pydantic_ai",
            "RunCapability requires pydantic-ai-slim: install Tailrace with [pydantic-ai]",
        ),
        ("celery", "TaskRuns requires celery: install Tailrace with [celery]"),
    ],
)
def test_without_its_framework_a_producer_says_what_is_missing(client_only, module, message):
    script = (
        f"try:\n    import tailrace.producers.{module}\n"
        "except ImportError as error:\n    print(error)\n"
        "from tailrace.producers import RunEvents"
    )
    assert client_only.run("-c", script) == f"{message}\n"


def test_with_async_the_wheel_has_the_client_for_asyncio(tmp_path, wheel, gateway, run_id):
    environment = Environment(tmp_path, wheel, "[async]")
    assert [package for package in SERVER_ONLY if environment.has(package)] == []
    printed = environment.run(PROGRAMS / "installed_async_client.py", gateway.url, run_id)
    assert printed.split() == ["lifecycle.started", "llm.stream", "lifecycle.completed"]


def test_with_redis_the_wheel_has_the_event_store(tmp_path, wheel, redis_server, run_id):
    environment = Environment(tmp_path, wheel, "[redis]")
    assert not environment.has("flask")
    assert not environment.has("gevent")
    printed = environment.run(PROGRAMS / "installed_event_store.py", redis_server.url, run_id)
    assert printed.split() == ["1", "2"]


def test_with_server_the_wheel_serves_from_an_empty_folder(tmp_path, wheel):
    environment = Environment(tmp_path, wheel, "[server]")
    port = free_port()
    environment.environ |= {"PORT": str(port)}
    command = [environment.bin / "tailrace", "serve"]
    log = environment.empty / "log"
    with log.open("wb") as output:
        serving = subprocess.Popen(
            command, cwd=environment.empty, env=environment.environ, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert serving.poll() is None, log.read_text()
            try:
                return requests.get(f"{url}/readyz", timeout=5).ok
            except requests.ConnectionError:
                return False

        wait_until(ready, "the gateway is ready", seconds=60)
        printed = environment.run(PROGRAMS / "installed_client.py", url, "run-1")
        assert printed.split() == ["lifecycle.started", "llm.stream", "lifecycle.completed"]
        assert (environment.empty / ".data").is_dir()  # its own Redis ran
        for path in ("docs", "docs/page.js", "docs/swagger-ui.css", "openapi.json", "client.js"):
            assert requests.get(f"{url}/{path}", timeout=5).ok, path
    finally:
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(30) == 0, log.read_text()


def test_the_installed_package_is_typed_and_has_one_version(client_only):
    script = (
        "import importlib.metadata as m, pathlib, tailrace; "
        "print(m.version('tailrace'), tailrace.__version__, "
        "(pathlib.Path(tailrace.__file__).parent / 'py.typed').exists())"
    )
    assert client_only.run("-c", script).split() == [__version__, __version__, "True"]
