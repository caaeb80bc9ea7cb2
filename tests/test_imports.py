"""The import rule of ARCHITECTURE.md, and the rules that hold for every module."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT

PACKAGE = ROOT / "app"
APP = sorted(PACKAGE.rglob("*.py"))
MODULES = [
    *APP,
    *(path for path in sorted((ROOT / "tests").rglob("*.py")) if ".venv" not in path.parts),
    *sorted((ROOT / "examples").glob("*.py")),
    *(ROOT / "wsgi.py", ROOT / "gunicorn.conf.py"),
]

# In each line, a module imports only what stands before it, and the lines named for it.
METRICS = ("values", "catalog", "answers", "shared_rows", "sampler", "exposition")
STREAMING_ROOT = (
    *("errors", "reentrancy", "backoff", "event_id", "event_json", "event", "new_event"),
    *("event_queue", "batch_sender", "at_exit", "appender"),
)
REDIS = (
    *("availability", "sentinel", "readable", "connection", "own_server", "redis_url"),
    *("server_warnings", "acknowledgement", "shared_connection", "scripts", "server"),
    *("cluster.slot_map", "cluster.cluster_url", "cluster.silent_nodes", "cluster.routing"),
    "cluster.discovery",
    *("cluster.cluster", "engine"),
)
LOG = (
    *("position", "log_state", "run", "lease", "redis_keys", "continuity", "replies"),
    *("sequence", "writer", "reader", "archived_log", "whole_reader"),
)
ARCHIVE = (
    "names",
    "lines",
    "storage",
    "file_storage",
    "object_storage",
    "manifest",
    "parts",
    "archive",
    "threads",
)
ARCHIVE_WRITING = ("metrics", "notes", "copying", "due", "archiver")
READINESS = ("server_readiness", "cluster_readiness")
RUNS = ("changes", "run_index", "late_notes", "runs", "census")
WIRE = (
    *("dialects", "frame", "formats", "payload", "answer", "run_changes", "frame_batch"),
    "progress",
)
FEEDS = (
    *("delivered", "fanout", "feed", "feed_group", "group_read", "tail_reader", "waker"),
    *("invalidations", "tracking_reader", "reader_pool", "grouped_readers", "node_readers"),
    "readers",
)
MERGED = ("cursor", "formats", "batch", "feed")
FOLLOW = (
    *(
        "client_socket",
        "history",
        "heartbeats",
        "standing",
        "start",
        "replay",
        "subscriber",
        "merged_replay",
    ),
    *("long_poll", "history_lines", "open_streams"),
)
SERVER = (
    *("bodies.gunicorn_body", "bodies.late_bodies", "bodies.linger", "bodies.nonblocking_body"),
    *("addresses", "common_headers", "request_ids"),
    *("hijack", "response", "request_head", "connections", "kept_alive"),
    *("refusals", "listeners", "service_manager", "worker", "arbiter"),
)
ROUTES = (
    *("lean_flask", "access.cors", "schemas", "admission", "problems"),
    *("writing.exact_json", "writing.json_body", "access.hosts", "access.access"),
    *("ingest.line_buffer", "ingest.progress_timer", "ingest.line_reader", "ingest.json_lines"),
    *("ingest.sse_parser", "ingest.chunks", "ingest.sse_reader", "ingest.ingest", "ingest.loop"),
    "gateway",
    *(
        *("health", "metrics", "debug"),
        "writing.events",
        "writing.requests",
        "writing.plain_appends",
    ),
    *("reading.accept", "reading.history", "reading.stream", "reading.merged", "reading.runs"),
    *("compat.answers", "compat.ai_sdk", "compat.ag_ui", "compat.openai", "compat.langgraph"),
    *("compat.compat", "access.session", "access.revocations", "client_module", "page_files", "ui"),
    *("description.operation", "description.documents", "description.shared_answers"),
    *("description.parameters", "description.example_runs", "description.control_events"),
    *("description.appending", "description.writing", "description.reading"),
    *("description.streams", "description.tokens_and_health", "description.description"),
    "description.page",
)
AUTH = (
    *("unwritable", "grants", "key", "keys", "identity", "fetch", "jwks", "api_keys"),
    *("tokens", "limits"),
    *("revocations", "revocation_log", "authenticator"),
)
PROTOCOL = (
    *("bearer", "options", "repeats", "sse_parser", "responses", "received_event"),
    *("run_state", "request_body", "calls", "following", "exporting"),
)
CLIENT = (
    *("keepalive", "connections", "credentials", "early_response", "session", "event_lines"),
    *("reading", "transport", "follower", "exported_lines", "client"),
)
ASYNC_CLIENT = (
    *("own_loop", "credentials", "redirects", "connections", "reading", "long_body"),
    *("transport", "follower", "exported_lines", "appender", "client"),
)
PRODUCERS = (
    *("plain", "outbox", "run_events", "call_tree"),
    *("langchain", "openai_agents", "pydantic_ai", "celery"),
)
FRAMEWORKS = {
    "langchain": "langchain_core",
    "openai_agents": "agents",
    "pydantic_ai": "pydantic_ai",
    "celery": "celery",
}
COMMAND_LINE_OUTPUT = (
    *("exit_status", "terminal", "failures", "event_line", "printers", "run_table"),
)
COMMAND_LINE = (
    *("connection", "given_json", "lines", "completion", "append", "follow", "pipe", "runs"),
    *("exporting", "run_import", "importing", "help"),
)


def in_package(package: str, modules: tuple[str, ...]) -> list[str]:
    return [f"app.{package}.{module}" for module in modules]


# What each module may import of the app, in one order from the bottom to the top.
_metrics = in_package("metrics", METRICS)
_catalog = ["app.metrics.catalog"]
_root = in_package("streaming", STREAMING_ROOT)
_redis = in_package("streaming.redis", REDIS)
_log = in_package("streaming.log", LOG)
_readiness = in_package("streaming.readiness", READINESS)
_archive = in_package("archive", ARCHIVE)
_archive_writing = [*in_package("archive.writing", ARCHIVE_WRITING), "app.archive.restoring"]
_runs = in_package("streaming.runs", RUNS)
_store = ["app.streaming.tail", "app.streaming.event_store"]
_wire = in_package("streaming.wire", WIRE)
_feeds = in_package("streaming.feeds", FEEDS)
_merged = in_package("streaming.merged", MERGED)
_follow = in_package("streaming.follow", FOLLOW)
_server = in_package("server", SERVER)
_routes = in_package("routes", ROUTES)
_auth = in_package("auth", AUTH)
_protocol = in_package("protocol", PROTOCOL)
_client = in_package("client", CLIENT)
_output = in_package("command_line.output", COMMAND_LINE_OUTPUT)
_commands = in_package("command_line", COMMAND_LINE)
_async_client = in_package("async_client", ASYNC_CLIENT)
_producers = in_package("producers", PRODUCERS)

# Streaming, as the routes know it: not its connections and scripts, not the insides of follow.
STREAMING_FOR_ROUTES = [
    "app.streaming.readiness.cluster_readiness",
    *_root,
    *_store,
    *in_package("streaming.wire", ("dialects", "formats", "payload", "answer", "run_changes")),
    *in_package("streaming.merged", ("cursor", "formats")),
    *in_package("streaming.runs", ("changes", "census", "run_index")),
    "app.streaming.feeds.feed",
    *in_package(
        "streaming.follow",
        (
            *("client_socket", "merged_replay", "open_streams", "replay", "standing", "start"),
            "subscriber",
        ),
    ),
]


def rule() -> Iterator[tuple[str, set[str]]]:
    """Every module, and what it may import of the app."""
    layers = (
        (_metrics, []),
        (_root, []),
        (_redis, [*_root, *_catalog]),
        (_log, [*_root, *_redis, *_catalog]),
        (_readiness, [*_root, *_redis, "app.streaming.log.redis_keys"]),
        (_archive, [*_root, *_log, *in_package("streaming.redis", ("connection",))]),
        (_runs, [*_root, *_redis, *_log]),
        (_store, [*_root, *_redis, *_log, *_readiness, *_runs, *_catalog]),
        (_archive_writing, [*_root, *_redis, *_log, *_runs, *_store, *_archive]),
        (_wire, [*_root, *_log, "app.streaming.runs.changes"]),
        (_feeds, [*_root, *_redis, *_log, *_store, *_wire, *_catalog, "app.metrics.values"]),
        (_merged, [*_root, *_log, *_wire, *_feeds]),
        (_follow, [*_root, *_redis, *_log, *_store, *_wire, *_feeds, *_merged, *_runs, *_catalog]),
        (_server, [*in_package("streaming.follow", ("client_socket",)), *_metrics, "app.capacity"]),
        (_auth, [*_root, *_redis]),
        (
            _routes,
            [*STREAMING_FOR_ROUTES, *_server, *_auth, *_metrics, "app.settings", "app.capacity"],
        ),
        (_protocol, _root),
        (_client, [*_root, *_protocol]),
        (_async_client, [*_root, *_protocol]),
        (_producers, _root),
        (_output, [*_root, *_protocol]),
        (_commands, [*_root, *_protocol, *_output, "app.client"]),
    )
    for modules, below in layers:
        for number, module in enumerate(modules):
            yield module, {*modules[:number], *below}
    yield "app.client", {"app.client.client", "app.streaming.errors"}
    auth_for_settings = set(in_package("auth", ("grants", "key")))
    async_names = ("appender", "client")
    yield "app.async_client", {*in_package("async_client", async_names), "app.streaming.errors"}
    yield "app.producers", {"app.producers.run_events"}
    yield "app.logging", {*_root, "app.client"}
    for_settings = {"app.streaming.redis.engine", "app.archive.storage"}
    yield "app.settings", {*_root, *auth_for_settings, *for_settings}
    yield "app.authentication", {*_auth, "app.settings", "app.streaming.redis.server"}
    yield "app.capacity", set()
    yield "app.costs", set()
    yield "app.sizing", {"app.costs"}
    yield "app.log_format", set()
    yield "app.launcher.reaper", set()
    yield "app.launcher.child_processes", set()
    yield "app.launcher.installed_redis", set(_store)
    own_redis = {*_root, *_store, "app.streaming.redis.own_server", "app.launcher.installed_redis"}
    yield "app.launcher.own_redis", own_redis
    whole = {name_of(path) for path in APP} - {
        "app",
        "app.__main__",
        "app.wiring",
        "app.archiving",
        "app.check",
        "app.costs",
        "app.sizing",
    }
    whole = {each for each in whole if not each.startswith(("app.command_line", "app.launcher"))}
    tracing = {
        "app.routes.gateway",
        "app.routes.access.hosts",
        "app.server.request_ids",
        "app.streaming.event_store",
    }
    tracing |= {"app.streaming.follow.open_streams", "app.streaming.new_event"}
    yield "app.tracing", {"app", *tracing}
    clients = {*_protocol, *_client, *_async_client, "app.logging", "app.async_client"}
    clients |= {*_producers, "app.producers"}
    yield "app.wiring", (whole - clients) | {"app"}  # for its version
    yield "app", {"app.wiring", "app.settings", *_store}
    known = {*_root, *_store, "app.settings", "app.capacity", "app.launcher.own_redis"}
    known |= {"app.launcher.installed_redis", "app.server.addresses"}
    known.add("app.auth.revocation_log")
    known |= set(in_package("streaming.redis", ("own_server", "redis_url")))
    yield "app.check", known
    yield "app.launcher.launcher", {*known, "app.check", "app.launcher.child_processes"}
    server_commands = {"app", "app.check", "app.launcher.launcher"}
    server_commands.add("app.command_line.output.terminal")
    yield "app.command_line.server_commands", server_commands
    token_command = {*in_package("auth", ("grants", "keys", "tokens")), *_root, *_output}
    yield "app.command_line.operating.token_command", {*token_command, "app.settings"}
    archiving = {*_root, *_store, *_archive, *_archive_writing, "app.settings"}
    archiving.add("app.log_format")
    yield "app.archiving", {*archiving, "app.streaming.redis.redis_url"}
    archive_commands = {*_root, *_output, "app", "app.archiving", "app.settings"}
    yield "app.command_line.operating.archive_commands", archive_commands
    capacity_command = {"app.costs", "app.sizing", "app.command_line.output.terminal"}
    yield "app.command_line.operating.capacity_command", capacity_command
    own_output = in_package("command_line.output", ("exit_status", "failures", "terminal"))
    # It loads the commands by their names, when they are used.
    yield "app.command_line", {"app", "app.streaming.errors", "app.command_line.help", *own_output}
    yield "app.__main__", {"app.command_line"}
    for package in (
        *("redis", "redis.cluster", "log", "readiness", "runs", "wire", "feeds", "merged"),
        "follow",
    ):
        yield f"app.streaming.{package}", set()
    for package in (
        "archive",
        "archive.writing",
        "metrics",
        "protocol",
        "streaming",
        "server",
        "server.bodies",
        "auth",
        "launcher",
        "command_line.operating",
        "command_line.output",
        "routes",
        "routes.access",
        "routes.compat",
        "routes.description",
        "routes.ingest",
        "routes.reading",
        "routes.writing",
    ):
        yield f"app.{package}", set()


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every imported module, with the name that is taken from it, wherever it stands."""
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield (whole, None) if is_module(whole) else (module, alias.name)


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def app_imports(path: Path) -> set[str]:
    return {module for module, _ in imports_of(path) if module.split(".")[0] == "app"}


def libraries(path: Path) -> set[str]:
    return {module.split(".")[0] for module, _ in imports_of(path)}


RULE = dict(rule())


def test_every_module_has_its_place_in_the_rule():
    assert {name_of(path) for path in APP} == set(RULE)


@pytest.mark.parametrize("path", APP, ids=name_of)
def test_a_module_imports_only_what_the_rule_allows(path):
    assert app_imports(path) <= RULE[name_of(path)]


@pytest.mark.parametrize("path", sorted((PACKAGE / "streaming").rglob("*.py")), ids=name_of)
def test_streaming_knows_nothing_of_the_web(path):
    web = {"flask", "werkzeug", "marshmallow", "gunicorn"}
    assert not libraries(path) & web


@pytest.mark.parametrize("path", APP, ids=name_of)
def test_only_the_server_package_imports_gunicorn(path):
    assert "gunicorn" not in libraries(path) or PACKAGE / "server" in path.parents


@pytest.mark.parametrize("path", sorted((PACKAGE / "routes").rglob("*.py")), ids=name_of)
def test_routes_import_neither_redis_nor_private_names(path):
    assert "redis" not in libraries(path)
    for module, name in imports_of(path):
        if module.startswith("app."):
            assert not (name or "").startswith("_"), f"{module}.{name} is private"


@pytest.mark.parametrize("path", sorted((PACKAGE / "protocol").glob("*.py")), ids=name_of)
def test_what_the_clients_share_does_no_io(path):
    """Only `logging`, and a clock."""
    io = {"asyncio", "http", "os", "select", "socket", "ssl", "threading"}
    allowed = {*sys.stdlib_module_names, "app", "orjson"} - io
    assert libraries(path) <= (allowed | {"os"} if path.stem == "options" else allowed)


@pytest.mark.parametrize("path", sorted((PACKAGE / "client").glob("*.py")), ids=name_of)
def test_the_client_imports_only_requests_orjson_and_the_standard_library(path):
    assert libraries(path) <= {*sys.stdlib_module_names, "app", "orjson", "requests", "urllib3"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "async_client").glob("*.py")), ids=name_of)
def test_the_client_for_asyncio_imports_only_httpx_and_the_standard_library(path):
    assert libraries(path) <= {*sys.stdlib_module_names, "app", "httpx", "httpcore"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "producers").glob("*.py")), ids=name_of)
def test_a_producer_imports_only_its_framework_and_the_standard_library(path):
    framework = {FRAMEWORKS[path.stem]} if path.stem in FRAMEWORKS else set()
    assert libraries(path) <= {*sys.stdlib_module_names, "app"} | framework


@pytest.mark.parametrize("path", APP, ids=name_of)
def test_imports_inside_the_package_are_relative(path):
    """The same tree is installed under another name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level or node.module.split(".")[0] != "app"
        elif isinstance(node, ast.Import):
            assert not [alias for alias in node.names if alias.name.split(".")[0] == "app"]


SERVER_ONLY = ["flask", "gevent", "gunicorn", "hiredis", "marshmallow", "redis", "werkzeug"]


@pytest.mark.parametrize(
    ("hidden", "program"),
    [
        (["flask", "gevent", "gunicorn"], "import_event_store.py"),
        ([*SERVER_ONLY, "httpx"], "import_client.py"),
        ([*SERVER_ONLY, "requests", "urllib3"], "import_async_client.py"),
        (["httpx"], "import_async_client_without_httpx.py"),
    ],
    ids=["event store", "client", "client for asyncio", "no httpx"],
)
def test_a_producer_needs_nothing_of_the_server(hidden, program):
    command = [sys.executable, ROOT / "tests" / "programs" / program, *hidden]
    subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, check=True)


# What a start need not load, unless a setting asks for it.
WITH_TOKENS = ["cryptography", "jwt"]
WITH_ISSUER = ["requests", "urllib3"]
OTHER_EXTRAS = ["obstore", "opentelemetry"]


@pytest.mark.parametrize(
    ("hidden", "program", "settings"),
    [
        ([*WITH_TOKENS, *WITH_ISSUER, *OTHER_EXTRAS], "make_gateway.py", {}),
        ([*WITH_ISSUER, *OTHER_EXTRAS], "make_gateway.py", {"AUTH_SECRET": "x" * 32}),
        (
            [*WITH_TOKENS, *WITH_ISSUER, *OTHER_EXTRAS, "flask", "gevent", "gunicorn"],
            "check_settings.py",
            {},
        ),
    ],
    ids=["gateway", "gateway with tokens", "check"],
)
def test_a_start_loads_only_what_its_settings_ask_for(hidden, program, settings, tmp_path):
    command = [sys.executable, ROOT / "tests" / "programs" / program, *hidden]
    environ = {"PYTHONPATH": str(ROOT), "REDIS_URL": "redis://127.0.0.1:1/0", **settings}
    subprocess.run(command, env=environ, cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    "path",
    [path for path in APP if PACKAGE / "command_line" in path.parents],
    ids=name_of,
)
def test_the_command_line_needs_only_the_base_install(path):
    if path.stem not in ("archive_commands", "server_commands", "token_command"):
        allowed = {"app", "click", "msgspec", "orjson"}
        assert libraries(path) <= {*sys.stdlib_module_names, *allowed}


def test_the_modules_that_gunicorn_loads_before_the_fork_import_no_flask_and_no_redis():
    before_fork = set(in_package("metrics", METRICS)) - {"app.metrics.exposition"}
    for module in before_fork:
        assert libraries(ROOT / f"{module.replace('.', '/')}.py") <= {
            *sys.stdlib_module_names,
            "app",
        }
    for name in (
        "arbiter",
        "bodies.gunicorn_body",
        "common_headers",
        "connections",
        "kept_alive",
        "listeners",
        "refusals",
        "request_head",
        "service_manager",
        "request_ids",
        "worker",
    ):
        path = PACKAGE.joinpath("server", *name.split(".")).with_suffix(".py")
        assert not libraries(path) & {"flask", "redis", "werkzeug"}
        assert app_imports(path) <= {
            *before_fork,
            "app.capacity",
            "app.server.addresses",
            "app.server.bodies.gunicorn_body",
            "app.server.common_headers",
            "app.server.connections",
            "app.server.kept_alive",
            "app.server.listeners",
            "app.server.refusals",
            "app.server.request_head",
            "app.server.service_manager",
            "app.server.request_ids",
            "app.streaming.follow.client_socket",
        }
    assert libraries(PACKAGE / "capacity.py") <= set(sys.stdlib_module_names)
    assert libraries(PACKAGE / "streaming" / "follow" / "client_socket.py") <= {
        *sys.stdlib_module_names,
        "gevent",
    }


@pytest.mark.parametrize("path", APP, ids=name_of)
def test_no_function_imports(path):
    if path in (PACKAGE / "__init__.py", PACKAGE / "__main__.py"):
        return  # importing the package must need no Flask; the command first blocks signals
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
def test_every_module_opens_with_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "folder",
    sorted({path.parent for path in APP}),
    ids=lambda folder: name_of(folder / "__init__.py"),
)
def test_a_package_holds_about_a_dozen_modules_at_most(folder):
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 13
