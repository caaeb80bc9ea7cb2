"""The manifests: they match the schemas of Kubernetes, one another, and the gateway."""

from typing import Any

import fakeredis
import kubernetes_validate
import pytest

from app import create_app
from app.settings import Settings
from app.streaming.event_store import EventStore
from tests.deploy.files import DEPLOY, GATEWAY_COMMAND, SECONDS_AFTER_DRAIN, documents_in

FOLDER = DEPLOY / "kubernetes"
VERSIONS = ("1.30", "1.33", "1.37")

FOREIGN = {"kustomization.yaml", "prometheus-adapter.yaml", "service-monitor.yaml"}
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))


def find(kind: str, name: str = "tailrace") -> dict[str, Any]:
    """Return the one document of a kind and a name."""
    documents = [each for path in FILES for each in documents_in(FOLDER / path)]
    [found] = [
        each for each in documents if each.get("kind") == kind and each["metadata"]["name"] == name
    ]
    return found


DEPLOYMENT = find("Deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
ARCHIVE_POD = find("Deployment", "tailrace-archive")["spec"]["template"]["spec"]
SETTINGS = find("ConfigMap")["data"] | find("Secret")["stringData"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", sorted(set(FILES) - FOREIGN))
def test_each_manifest_matches_the_schema(name, version):
    for document in documents_in(FOLDER / name):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_refuses_what_is_wrong():
    wrong = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replicaz": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_kustomization_names_files_that_are_there_and_no_secret():
    [kustomization] = documents_in(FOLDER / "kustomization.yaml")
    assert set(kustomization["resources"]) <= set(FILES)
    assert "gateway.yaml" in kustomization["resources"]
    assert not any("example" in each for each in kustomization["resources"])


def test_the_settings_are_the_gateways():
    assert set(SETTINGS) <= Settings.names()
    Settings.load(SETTINGS)


def test_the_grace_period_is_as_long_as_the_wait_and_the_drain():
    sleep, seconds = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    drain = int(SETTINGS["DRAIN_SECONDS"])
    least = int(seconds) + drain + SECONDS_AFTER_DRAIN
    assert POD["terminationGracePeriodSeconds"] >= least


def test_a_pod_gets_no_connections_before_its_port_closes():
    """The wait is longer than two failed probes, for balancers that go by them."""
    _, seconds = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert int(seconds) >= 5
    strategy = DEPLOYMENT["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0
    assert "replicas" not in DEPLOYMENT["spec"]  # applying it would undo the autoscaler
    assert find("HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 2


def test_the_ports_are_those_of_the_settings():
    ports = {each["name"]: str(each["containerPort"]) for each in CONTAINER["ports"]}
    assert ports == {
        "http": SETTINGS["PORT"],
        "monitoring": SETTINGS["MONITORING_PORT"],
        "metrics": SETTINGS["METRICS_PORT"],
    }
    for port in find("Service")["spec"]["ports"]:
        assert port["targetPort"] in ports
    for rule in find("NetworkPolicy")["spec"]["ingress"]:
        assert {each["port"] for each in rule["ports"]} <= set(ports)
    services = {each["name"] for each in find("Service")["spec"]["ports"]}
    assert {each["port"] for each in find("ServiceMonitor")["spec"]["endpoints"]} <= services


def test_the_probes_ask_for_paths_that_the_gateway_has():
    app = create_app(Settings(), event_store=EventStore(client=fakeredis.FakeRedis(protocol=2)))
    paths = {rule.rule for rule in app.url_map.iter_rules()}
    probes = [CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert {probe["port"] for probe in probes} == {"monitoring"}
    assert {probe["path"] for probe in probes} == {"/healthz", "/livez", "/readyz"}
    assert {probe["path"] for probe in probes} <= paths


@pytest.mark.parametrize("pod", [POD, ARCHIVE_POD], ids=["gateway", "archive"])
def test_a_pod_has_no_rights_that_it_does_not_need(pod):
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert not container["image"].endswith(":latest")
    dockerfile = (DEPLOY.parent / "Dockerfile").read_text()
    assert "USER 10001:10001\n" in dockerfile


def test_every_selector_finds_the_pods():
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    selectors = [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        find("Service")["spec"]["selector"],
        find("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in POD["topologySpreadConstraints"]),
    ]
    assert all(selector == labels for selector in selectors)
    monitored = find("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= find("Service")["metadata"]["labels"].items()


def test_the_gateway_runs_as_the_documents_say():
    assert CONTAINER["command"] == GATEWAY_COMMAND
    [adapter] = documents_in(FOLDER / "prometheus-adapter.yaml")
    [rule] = adapter["rules"]["custom"]
    metrics = [each.get("pods") for each in find("HorizontalPodAutoscaler")["spec"]["metrics"]]
    assert rule["name"]["matches"] in [each["metric"]["name"] for each in metrics if each]
