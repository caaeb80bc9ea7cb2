"""The compose file: it matches the schema of compose, the other files, and a real Valkey."""

import hashlib
import importlib.resources
import json
import re
import subprocess

import jsonschema
import pytest
import requests
import yaml

from app.launcher.installed_redis import find_server
from app.settings import Settings
from tests.deploy.files import (
    DEPLOY,
    GATEWAY_COMMAND,
    SECONDS_AFTER_DRAIN,
    documents_in,
    settings_in,
)
from tests.redis.acl import acl_of
from tests.servers import GatewayServer, RedisServer

FOLDER = DEPLOY / "compose"
TEXT = (FOLDER / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
GATEWAYS = [name for name in SERVICES if name.startswith("gateway-")]
PASSWORD = "a-password"


def schema() -> dict:
    """Return the schema of the compose specification."""
    package = importlib.resources.files("check_jsonschema.builtin_schemas")
    return json.loads((package / "vendor" / "compose-spec.json").read_text())


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s", text)[1])


def test_the_file_matches_the_schema():
    jsonschema.validate(COMPOSE, schema())


def test_the_schema_refuses_what_is_wrong():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**COMPOSE, "servicez": {}}, schema())


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+:\d+", service["user"])
    assert service["user"].partition(":")[0] != "0"
    assert service["healthcheck"]["test"]
    assert re.fullmatch(r"[a-z/]+:(v?\d+\.\d+\.\d+|\$\{TAILRACE_VERSION:-\d+\.\d+\.\d+\})",
                        service["image"])  # fmt: skip


def test_there_are_two_gateways_that_differ_in_their_address_only():
    assert GATEWAYS == ["gateway-1", "gateway-2"]
    first, second = ({**SERVICES[name], "networks": None} for name in GATEWAYS)
    assert first == second
    assert first["command"] == GATEWAY_COMMAND
    assert set(first["environment"]) <= Settings.names()
    addresses = [SERVICES[name]["networks"]["inside"]["ipv4_address"] for name in GATEWAYS]
    port = first["environment"]["PORT"]
    upstream = (FOLDER / "nginx" / "upstream.conf").read_text()
    assert re.findall(r"server (\S+) ", upstream) == [f"{each}:{port}" for each in addresses]


def test_a_gateway_is_stopped_only_after_its_drain():
    gateway = SERVICES["gateway-1"]
    drain = int(gateway["environment"]["DRAIN_SECONDS"])
    assert seconds(gateway["stop_grace_period"]) >= drain + SECONDS_AFTER_DRAIN


def test_the_example_lists_the_variables():
    used = set(re.findall(r"\$\{([A-Z_]+)", TEXT))
    example = (FOLDER / ".env.example").read_text()
    assert set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE)) == used
    needed = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert {name for name, _ in settings_in(example)} == needed


def test_what_is_mounted_is_there_or_written_by_others():
    """The files of Prometheus and Grafana are mounted by the names that they have."""
    mounted = [each for service in SERVICES.values() for each in service.get("volumes", ())]
    sources = {each.partition(":")[0] for each in mounted}
    files = {each for each in sources if each.startswith(".")}
    others = {each for each in files if each.startswith(("../prometheus/", "../grafana/"))}
    assert others == {
        "../prometheus/prometheus.yml",
        "../prometheus/alerts.yml",
        "../grafana/provisioning",
        "../grafana/dashboards/tailrace.json",
    }
    folders = {path.parent.name for path in map(FOLDER.joinpath, others) if path.exists()}
    if folders:  # all or nothing
        assert all((FOLDER / each).exists() for each in others)
        [prometheus] = documents_in(FOLDER / "../prometheus/prometheus.yml")
        [job] = [each for each in prometheus["scrape_configs"] if each["job_name"] == "tailrace"]
        port = SERVICES["gateway-1"]["environment"]["METRICS_PORT"]
        targets = [each for config in job["static_configs"] for each in config["targets"]]
        assert targets == [f"{name}:{port}" for name in GATEWAYS]
    own = files - others - {"./tls"}  # where the operator puts the certificate
    assert all((FOLDER / each).exists() for each in own)
    assert sources - files == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", ["tailrace.conf", "upstream.conf"])
def test_nginx_has_the_configuration_that_the_tests_run(name):
    """But for ports and addresses, line by line."""

    def lines(text: str) -> list[str]:
        text = re.sub(r"listen \d+", "listen", text)
        text = re.sub(r"server [\d.]+:\d+", "server", text)
        rows = [line.strip() for line in text.splitlines()]
        return [line for line in rows if line and not line.startswith("#")]

    ours = lines((FOLDER / "nginx" / name).read_text())
    assert ours == lines((DEPLOY / "nginx" / name).read_text())


@pytest.fixture
def valkey(tmp_path):
    """Start a server with the configuration and the users of the container."""
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    template = (FOLDER / "valkey" / "users.acl.template").read_text()
    assert "%PASSWORD%" in template
    users = tmp_path / "users.acl"
    users.write_text(template.replace("%PASSWORD%", digest))
    settings = (FOLDER / "valkey" / "valkey.conf").read_text()
    options = [
        word
        for line in settings.splitlines()
        if line and not line.startswith(("#", "dir ", "save "))
        for word in (f"--{line.partition(' ')[0]}", line.partition(" ")[2])
    ]
    server = RedisServer(tmp_path, *options, "--aclfile", str(users))
    binary = find_server().path
    server._answers = lambda: b"NOAUTH" in subprocess.run(
        ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{server.port}; echo PING >&3; head -1 <&3"],
        capture_output=True,
    ).stdout  # fmt: skip
    assert binary
    with server:
        yield server


def test_the_user_has_the_smallest_rights_that_the_document_names():
    line = (FOLDER / "valkey" / "users.acl.template").read_text().splitlines()[-1]
    _, name, *rules = line.split()
    named = [">password" if rule == "#%PASSWORD%" else rule for rule in rules]
    defaults = {"resetkeys", "resetchannels"}  # of a user that is new
    assert (name, set(named)) == ("tailrace", set(acl_of("tailrace")) - defaults)


def test_a_gateway_needs_no_more_than_the_user_may_do(valkey, tmp_path, run_id):
    url = f"redis://tailrace:{PASSWORD}@127.0.0.1:{valkey.port}/0"
    with GatewayServer(url, tmp_path / "gateway") as gateway:
        assert requests.get(f"{gateway.url}/readyz", timeout=20).status_code == 200
        event = {"event_category": "lifecycle", "event_action": "started"}
        path = f"{gateway.url}/runs/{run_id}/events"
        assert requests.post(path, json=event, timeout=20).status_code == 201
        assert len(requests.get(path, timeout=20).json()["events"]) == 1
        assert requests.get(f"{gateway.url}/runs", timeout=20).status_code == 200
        assert requests.delete(path, timeout=20).status_code == 204
        assert "NOPERM" not in gateway.log.read_text()
