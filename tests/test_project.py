"""The house: who imports whom, docstrings, pins, and documents that match the code."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.settings import Settings
from tests.servers import ROOT

APP = sorted((ROOT / "app").rglob("*.py"))
MODULES = [
    *APP,
    *sorted(set((ROOT / "tests").rglob("*.py")) - set((ROOT / "tests").rglob(".venv/**/*.py"))),
    *(ROOT / "wsgi.py", ROOT / "gunicorn.conf.py"),
]

# Each may import what stands before it (ARCHITECTURE.md, "The import rule").
STREAMING_ORDER = (
    *(
        "errors",
        "event_id",
        "event",
        "new_event",
        "batches",
        "appender",
        "frame",
        "sse",
        "master_watch",
        "connection",
    ),
    "replies",
    *(
        "shared_connection",
        "scripts",
        "keys",
        "log_writer",
        "log_reader",
        "event_store",
        "client_socket",
        "feed",
        "history",
        "heartbeat",
    ),
    *("group_read", "reader", "waker", "readers", "subscriber", "open_streams"),
)
# These know nothing of events and runs.
APART = ("client_socket", "heartbeat")
STREAMING = {f"app.streaming.{name}" for name in STREAMING_ORDER}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every imported module, with the name that is taken from it, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (ROOT / whole.replace(".", "/")).with_suffix(".py").exists()
                yield (whole, None) if is_module else (node.module, alias.name)


def app_imports(path: Path) -> set[str]:
    return {module for module, _ in imports_of(path) if module.split(".")[0] == "app"}


def libraries(path: Path) -> set[str]:
    return {module.split(".")[0] for module, _ in imports_of(path)}


def in_package(name: str) -> list[Path]:
    return sorted((ROOT / "app" / name).glob("*.py"))


def test_every_streaming_module_has_its_place():
    assert {name_of(path) for path in in_package("streaming")} == STREAMING | {"app.streaming"}


@pytest.mark.parametrize("name", STREAMING_ORDER)
def test_a_streaming_module_imports_only_what_stands_before_it(name):
    before = STREAMING_ORDER[: STREAMING_ORDER.index(name)]
    allowed = {f"app.streaming.{other}" for other in before}
    assert app_imports(ROOT / "app" / "streaming" / f"{name}.py") <= allowed


@pytest.mark.parametrize("name", APART)
def test_what_knows_nothing_of_events_imports_of_the_app_only_the_errors(name):
    path = ROOT / "app" / "streaming" / f"{name}.py"
    assert app_imports(path) <= {"app.streaming.errors"}


@pytest.mark.parametrize("path", in_package("streaming"), ids=name_of)
def test_streaming_knows_nothing_of_the_web(path):
    assert not libraries(path) & {"flask", "flask_cors", "werkzeug", "marshmallow", "gunicorn"}


@pytest.mark.parametrize("path", in_package("routes"), ids=name_of)
def test_routes_know_streaming_by_its_public_names_and_never_redis(path):
    assert "redis" not in libraries(path)
    for module, name in imports_of(path):
        if module.startswith("app."):
            its_own = module.startswith(("app.streaming.", "app.routes."))
            assert its_own or module in ("app.settings", "app.capacity")
            assert not (name or "").startswith("_"), f"{module}.{name} is private"
    assert "app.streaming.log.connection" not in app_imports(path)


@pytest.mark.parametrize("path", in_package("client"), ids=name_of)
def test_the_client_knows_events_and_errors_and_nothing_of_the_server(path):
    known = {
        f"app.streaming.{name}" for name in ("errors", "event_id", "event", "new_event", "appender")
    }
    its_own = {name_of(other) for other in in_package("client")} - {"app.client"}
    assert app_imports(path) <= known | its_own
    assert libraries(path) <= {*sys.stdlib_module_names, "app", "orjson", "requests", "urllib3"}


@pytest.mark.parametrize("path", APP, ids=name_of)
def test_nothing_of_the_app_imports_the_client(path):
    if path.parent.name != "client":
        assert not {name for name in app_imports(path) if name.startswith("app.client")}


@pytest.mark.parametrize("path", APP, ids=name_of)
def test_nothing_of_the_app_imports_the_factory(path):
    assert "app" not in app_imports(path)


def test_the_settings_import_of_the_app_only_what_says_what_is_allowed():
    allowed = {f"app.streaming.{name}" for name in ("connection", "errors", "new_event")}
    assert app_imports(ROOT / "app" / "settings.py") <= allowed


def test_a_producer_needs_no_flask():
    script = """
import sys
sys.modules["flask"] = None
from app.streaming.event_store import EventStore
EventStore("redis://127.0.0.1:1/0")
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_the_client_needs_nothing_of_the_server():
    script = """
import sys
for name in ("flask", "gevent", "gunicorn", "hiredis", "marshmallow", "redis", "werkzeug"):
    sys.modules[name] = None
from app.client import Client
Client("http://127.0.0.1:1").close()
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_gunicorns_settings_import_nothing_of_the_app():
    assert app_imports(ROOT / "gunicorn.conf.py") == set()


@pytest.mark.parametrize("path", APP, ids=name_of)
def test_no_function_imports(path):
    if path == ROOT / "app" / "__init__.py":
        return  # see test_a_producer_needs_no_flask
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.Lambda)
    )
    inner = [part for function in functions for part in ast.walk(function)]
    assert not [part for part in inner if isinstance(part, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.read_text().strip()], ids=name_of
)
def test_every_module_opens_with_what_it_holds(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


# What is installed


def requirements(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned(name):
    assert requirements(name)
    for requirement in requirements(name):
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), requirement


def test_what_the_requirements_bring_along_is_pinned_too():
    pinned = {canonicalize_name(each.name): each for each in requirements("requirements.txt")}
    for requirement in pinned.values():
        if requirement.marker and not requirement.marker.evaluate():
            continue
        for needed in needs_of(requirement):
            assert canonicalize_name(needed.name) in pinned, f"{requirement} needs {needed}"


def needs_of(requirement: Requirement) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(requirement.name) or ():
        needed = Requirement(line)
        extras = ["", *requirement.extras]
        if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            yield needed


# Documents


def shown(default: object) -> str:
    return "—" if default in (None, ()) else f"`{default}`"


def test_the_table_of_the_readme_is_the_settings():
    rows = re.findall(
        r"^\|\s*`([A-Z_]+)`\s*\|\s*(.*?)\s*\|", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert rows == [(each.name.upper(), shown(each.default)) for each in fields(Settings)]


def test_the_example_of_env_lists_the_variables_with_their_defaults():
    text = (ROOT / ".env.example").read_text()
    listed = re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE)
    assert [name for name, _ in listed] == [each.name.upper() for each in fields(Settings)]
    values = dict(listed)
    assert Settings.load(values) == Settings(redis_url=values["REDIS_URL"])
    assert not re.findall(r"^[A-Z_]+=", text, re.MULTILINE), "a copy of it changes nothing"
