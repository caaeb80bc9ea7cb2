"""The settings: their defaults, the values that are read and refused, and their sources."""

from dataclasses import FrozenInstanceError, fields

import pytest

from app.settings import Settings, SettingsError

SECRET = "0123456789abcdef0123456789abcdef"

# Every variable: its default, a valid text and its value, and texts that are refused.
VARIABLES = {
    "REDIS_URL": (None, "redis://h:1/2", "redis://h:1/2", ["localhost", "http://h", "6379"]),
    "HOST": ("127.0.0.1", "0.0.0.0", "0.0.0.0", ["*", "http://a", "a b", "[::1]"]),
    "PORT": (8082, "9000", 9000, ["0", "65536", "-1", "http", "80.5", "1e3"]),
    "MONITORING_PORT": (None, "9001", 9001, ["0", "65536", "x"]),
    "METRICS_PORT": (None, "9002", 9002, ["0", "65536", "x"]),
    "METRICS_TOKEN": (
        None,
        "a-token-of-prometheus=",
        "a-token-of-prometheus=",
        ["short", "a" * 20 + " b"],
    ),
    "WEB_CONCURRENCY": (1, "4", 4, ["0", "257", "many"]),
    "ACK_REPLICAS": (0, "2", 2, ["-1", "101", "one", "1.5", "9" * 30]),
    "STREAM_MAXLEN": (10_000, "5", 5, ["0", "-1", "x", "9" * 30]),
    "STREAM_TTL_SECONDS": (86_400, "60", 60, ["0", "1h", "9" * 30]),
    "STREAM_IDLE_TTL_SECONDS": (604_800, "60", 60, ["0", "-5", "9" * 30]),
    "ARCHIVE_URL": (None, "file:///a b", "file:///a b", ["/a", "file://a", "s3://", "http://a"]),
    "ARCHIVE_HOLD_SECONDS": (604_800, "0", 0, ["-1", "7d", "9" * 30]),
    "HEARTBEAT_SECONDS": (15, "1", 1, ["0", "3601", "soon"]),
    "RETRY_MS": (3000, "1", 1, ["0", "3600001", "x"]),
    "MAX_STREAMS": (10_000, "1", 1, ["0", "x"]),
    "MAX_EVENT_BYTES": (262_144, "1", 1, ["0", "256K"]),
    "MAX_BODY_BYTES": (4_194_304, "1", 1, ["0", "4M"]),
    "KEEPALIVE_SECONDS": (75, "60", 60, ["0", "3601", "x"]),
    "DRAIN_SECONDS": (20, "0", 0, ["-1", "3601", "x"]),
    "AUTH_SECRET": (
        (),
        f"{SECRET}, {SECRET[::-1]}",
        (SECRET, SECRET[::-1]),
        ["x" * 31, f"{SECRET},", f"{SECRET},{SECRET},{SECRET}"],
    ),
    "AUTH_PUBLIC_KEYS": (None, "keys.pem", "keys.pem", []),
    "AUTH_JWKS_URL": (None, "https://a.example/keys", "https://a.example/keys", []),
    "API_KEYS_FILE": (None, "keys", "keys", []),
    "AUTH_CLAIM": ("tailrace", "https://a.example/runs", "https://a.example/runs", []),
    "AUTH_ISSUER": (None, "https://a.example", "https://a.example", []),
    "AUTH_AUDIENCE": ("tailrace", "runs", "runs", []),
    "AUTH_QUERY_TOKEN": (False, "true", True, ["yes"]),
    "PUBLIC_READ": ((), "demo.*, status,", ("demo.*", "status"), ["a**", "a b", "*a", "a/b"]),
    "ALLOW_ANONYMOUS": (False, "TRUE", True, ["1"]),
    "MAX_AUTH_FAILURES": (100, "5", 5, ["0", "x"]),
    "MAX_STREAMS_PER_SUBJECT": (None, "5", 5, ["0", "x"]),
    "MAX_APPENDS_PER_SUBJECT": (None, "5", 5, ["0", "x"]),
    "ALLOWED_HOSTS": (
        (),
        "A.example., .b.example,[2001:DB8:0:0::1],*,",
        ("a.example", ".b.example", "2001:db8::1", "*"),
        ["a.example:80", "cafe:80", "http://a.example", "a b", "*.example", ".", "..", "a..b", "["],
    ),
    "CORS_ORIGINS": (
        (),
        "https://a.example, http://b:81,",
        ("https://a.example", "http://b:81"),
        ["a.example", "https://a.example/", "https://a.example,b", "ftp://a.example"],
    ),
    "COMPAT": ((), "ag-ui, ai-sdk,ag-ui,", ("ag-ui", "ai-sdk"), ["vercel", "AI-SDK", "raw"]),
    "DOCS": (True, "false", False, ["no", "0"]),
    "UI": (True, "false", False, ["no", "0"]),
    "LOG_FORMAT": ("text", "json", "json", ["xml", "JSON "]),
    "LOG_LEVEL": ("info", "debug", "debug", ["loud", "7"]),
    "ACCESS_LOG": (False, "True", True, ["yes", "1", "-"]),
}


@pytest.fixture
def clean_directory(monkeypatch, tmp_path):
    """Change to an empty directory, and unset all variables of the settings."""
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_table_of_variables_is_complete():
    assert {setting.name.upper() for setting in fields(Settings)} == set(VARIABLES)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_has_its_default(name):
    default, *_ = VARIABLES[name]
    assert getattr(Settings.load({}), name.lower()) == default
    assert getattr(Settings(), name.lower()) == default


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_is_read_and_typed(name):
    default, text, value, _ = VARIABLES[name]
    read = getattr(Settings.load({name: text}), name.lower())
    assert (read, type(read)) == (value, type(value))
    assert read != default


@pytest.mark.parametrize("name", VARIABLES)
def test_an_empty_variable_counts_as_absent(name):
    assert Settings.load({name: ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "bad"), [(name, bad) for name, (*_, refused) in VARIABLES.items() for bad in refused]
)
def test_an_invalid_value_is_an_error_that_names_the_variable_and_what_is_allowed(name, bad):
    with pytest.raises(SettingsError) as error:
        Settings.load({name: bad})
    named, _, allowed = str(error.value).partition(": ")
    assert named == name
    assert allowed.startswith("Must be")
    assert "\n" not in allowed


@pytest.mark.parametrize(("name", "bound"), [("PORT", "1"), ("PORT", "65535"), ("RETRY_MS", "1")])
def test_the_bounds_of_a_range_are_allowed(name, bound):
    assert getattr(Settings.load({name: bound}), name.lower()) == int(bound)


def test_all_invalid_values_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        Settings.load({"PORT": "x", "LOG_LEVEL": "y", "HOST": "0.0.0.0"})
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        "PORT", "LOG_LEVEL",
    ]  # fmt: skip


def test_unknown_variables_are_ignored():
    assert Settings.load({"PATH": "/bin", "port": "1"}) == Settings()


def test_an_asterisk_allows_every_origin():
    assert Settings.load({"CORS_ORIGINS": "*"}).cors_origins == ("*",)


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1


@pytest.mark.usefixtures("clean_directory")
def test_the_defaults_apply_without_any_variable():
    assert Settings.load() == Settings()


def test_the_environment_overrides_the_file(clean_directory, monkeypatch):
    (clean_directory / ".env").write_text("PORT=9001\nHOST=0.0.0.0\n")
    monkeypatch.setenv("PORT", "9002")
    assert (Settings.load().port, Settings.load().host) == (9002, "0.0.0.0")


def test_an_empty_environment_variable_does_not_override_the_file(clean_directory, monkeypatch):
    """The event store treats an empty REDIS_URL in the same way."""
    (clean_directory / ".env").write_text("REDIS_URL=redis://of-env/0\n")
    monkeypatch.setenv("REDIS_URL", "")
    assert Settings.load().redis_url == "redis://of-env/0"


def test_an_invalid_value_in_the_file_is_named(clean_directory):
    (clean_directory / ".env").write_text("PORT=x\n")
    with pytest.raises(SettingsError, match="PORT: "):
        Settings.load()


def test_an_empty_value_in_the_file_counts_as_absent(clean_directory):
    (clean_directory / ".env").write_text("PORT=\n#HOST=1.2.3.4\n")
    assert Settings.load() == Settings()


@pytest.mark.parametrize("name", ["MONITORING_PORT", "METRICS_PORT"])
def test_the_ports_for_those_who_watch_are_others(name):
    with pytest.raises(SettingsError, match=f"{name}: Must be another one than PORT"):
        Settings.load({name: "8082"})


def test_metrics_and_health_checks_may_share_a_port():
    assert Settings.load({"MONITORING_PORT": "8083", "METRICS_PORT": "8083"}).metrics_port == 8083
