"""Wrong URLs, rights that are missing, and addresses that lead nowhere: each is told by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from app.auth.revocation_log import REVOCATIONS
from app.streaming.errors import InvalidInput, StoreUnavailable, UnsupportedServer
from app.streaming.event_store import EventStore
from tests.cluster_servers import ClusterServers
from tests.redis.acl import SECRET, acl_of, acl_of_cluster, refused, set_user, use_everything
from tests.redis.programs import REDIS_OF_DEBIAN, VALKEY_9, every_program, needs, on_both
from tests.servers import ROOT, RedisServer, free_port, wait_until

RULES = [*acl_of("tailrace"), *acl_of_cluster()]


def url_of(*ports: int) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)


def check(url: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m app check`."""
    return subprocess.run(
        [sys.executable, "-m", "app", "check"],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": url, "PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://h:port",
        "redis+cluster://h:1/1",
        "redis+cluster://h:1?db=1",
        "redis+cluster://h:1,",
        "redis+cluster://h:1/x",
        "redis+cluster://h:1?nonsense=1",
        "redis+cluster://u:64#PW1@h:1",
    ],
)
def test_a_wrong_url_is_refused_by_name(url):
    with pytest.raises(InvalidInput) as told:
        EventStore(url)
    assert told.value.field == "REDIS_URL"
    assert "PW1" not in str(told.value)


def test_one_node_is_enough_and_dead_ones_do_not_matter(shared_cluster, run_id):
    port = shared_cluster.masters[1].port
    for url in (url_of(port), url_of(free_port(), free_port(), port)):
        store = EventStore(url)
        store.check_ready()
        store.add(run_id, "llm", "stream")
        assert len(store.shards()) == 3


def test_a_replica_is_enough(shared_cluster, run_id):
    [replica] = shared_cluster.replicas_of(shared_cluster.masters[0])
    store = EventStore(url_of(replica.port))
    store.check_ready()
    store.add(run_id, "llm", "stream")


def test_only_dead_nodes_are_unavailable():
    store = EventStore(url_of(free_port(), free_port()))
    with pytest.raises(StoreUnavailable, match="no node of the cluster answers") as told:
        store.add("a", "llm", "stream")
    assert told.value.stored is False
    with pytest.raises(StoreUnavailable, match="no node of the cluster answers"):
        store.check_ready()


def test_a_node_of_another_cluster_is_refused_by_name(shared_cluster, cluster):
    first, other = shared_cluster.masters[0].port, cluster.port
    with pytest.raises(UnsupportedServer, match=rf"127.0.0.1:{other} belongs to another cluster"):
        EventStore(url_of(first, other)).check_ready()


def test_a_node_of_another_cluster_that_is_silent_at_first_is_refused_later(
    shared_cluster, start_cluster
):
    [other] = start_cluster(1, 0).masters
    store = EventStore(url_of(shared_cluster.masters[0].port, other.port))
    other.pause()
    try:
        for _ in range(3):
            store.check_ready()
        assert list(store.silent_nodes()) == [f"127.0.0.1:{other.port}"]
    finally:
        other.resume()

    def is_refused() -> bool:
        try:
            store.check_ready()
        except UnsupportedServer as error:
            return "belongs to another cluster" in str(error)
        return False

    wait_until(is_refused, "it is refused")


def test_a_node_that_has_joined_no_cluster_yet_is_told_of(shared_cluster, tmp_path, run_id):
    """A new one, or one that has lost its disk."""
    options = "--cluster-enabled", "yes", "--cluster-port", str(free_port())
    with RedisServer(tmp_path, *options) as new:
        url = url_of(shared_cluster.masters[0].port, new.port)
        store = EventStore(url)
        store.check_ready()
        store.add(run_id, "llm", "stream")
        assert list(store.silent_nodes()) == [f"127.0.0.1:{new.port}"]
        answer = check(url)
        assert answer.returncode == 0
        assert f"REDIS_URL names 127.0.0.1:{new.port}: it knows of no slots" in answer.stderr


def test_a_standalone_server_is_refused_with_its_scheme(tmp_path, shared_cluster):
    with RedisServer(tmp_path) as server:
        for url in (url_of(server.port), url_of(shared_cluster.masters[0].port, server.port)):
            answer = check(url)
            assert answer.returncode == 2
            assert f"127.0.0.1:{server.port} is not in cluster mode: use redis://" in answer.stderr
            assert "Traceback" not in answer.stderr


def assert_is_refused_with_the_scheme(node: RedisServer) -> None:
    for database in (0, 3):
        answer = check(f"redis://127.0.0.1:{node.port}/{database}")
        assert answer.returncode == 2
        assert "redis+cluster://" in answer.stderr
        assert "Traceback" not in answer.stderr


@every_program
def test_the_url_of_one_server_that_is_a_node_is_refused_with_the_scheme(start_cluster):
    cluster = start_cluster(1, 1)
    for node in cluster.nodes:
        assert_is_refused_with_the_scheme(node)


@pytest.mark.parametrize("program", [VALKEY_9.param])
def test_a_node_that_has_more_databases_is_refused_with_the_scheme(start_cluster):
    cluster = start_cluster(1, 0, options=("--cluster-databases", "16"))
    assert_is_refused_with_the_scheme(cluster.masters[0])


def test_check_tells_of_a_cluster_and_of_a_dead_node(start_cluster):
    cluster = start_cluster(3, 0)
    assert check(cluster.url).returncode == 0
    cluster.masters[1].stop()
    answer = check(cluster.url)
    assert answer.returncode == 0
    dead = f"127.0.0.1:{cluster.masters[1].port}"
    assert f"warning: {dead} with the slots 5461-" in answer.stderr
    assert f"warning: REDIS_URL names {dead}: Redis does not answer" in answer.stderr


@on_both
def test_the_smallest_acl_is_enough(start_cluster, start_gateway):
    cluster = start_cluster(3, 0)
    for node in cluster.masters:
        with node.client() as client:
            set_user(client, "tailrace", RULES)
    url = cluster.url.replace("//", "//tailrace:password@")
    store = EventStore(url)
    store.check_ready(REVOCATIONS)
    gateway = start_gateway(url, AUTH_SECRET=SECRET)
    admin = redis.RedisCluster("127.0.0.1", cluster.masters[0].port, protocol=2)
    use_everything(gateway, store, admin)
    for node in cluster.masters:
        with node.client() as client:
            assert refused(client) == set()
    admin.close()


def named(rule: str) -> str:
    """Return what is named if a rule is missing."""
    return rule[1:].replace("|", " ")


@pytest.mark.parametrize(
    "rule",
    [
        *("+cluster|slots", "+cluster|info", "+asking", "+ping"),
        *("+client|tracking", "+client|id", "+subscribe", "&__redis__:invalidate"),
    ],
)
def test_what_a_user_may_not_do_is_named(start_cluster, rule):
    cluster = start_cluster(1, 0)
    with cluster.masters[0].client() as client:
        set_user(client, "tailrace", [each for each in RULES if each != rule])
    url = cluster.url.replace("//", "//tailrace:password@")
    with pytest.raises(UnsupportedServer, match=rf"(?i)forbids .*{named(rule)}"):
        EventStore(url).check_ready()
    answer = check(url)
    assert answer.returncode == 2
    assert named(rule) in answer.stderr.lower()


def announce(cluster: ClusterServers, setting: str, value: str) -> None:
    """Have the only node of a cluster announce another address."""
    [node] = cluster.masters
    cluster.command(node, "CONFIG", "SET", setting, value)
    if setting == "cluster-announce-hostname":
        name = "cluster-preferred-endpoint-type", "hostname"
        cluster.command(node, "CONFIG", "SET", *name)

    def is_told() -> bool:
        [[_, _, master, *_]] = cluster.command(node, "CLUSTER", "SLOTS")
        return master[0] == value.encode()

    wait_until(is_told, "the node tells the address", 30)


@pytest.mark.parametrize(
    ("setting", "address"),
    [
        ("cluster-announce-ip", "10.255.255.1"),
        ("cluster-announce-hostname", "no-such-host.invalid"),
    ],
)
def test_an_announced_address_that_leads_nowhere_is_named(start_cluster, setting, address):
    cluster = start_cluster(1, 0)
    announce(cluster, setting, address)
    with pytest.raises(StoreUnavailable, match=address) as told:
        EventStore(cluster.url).check_ready()
    assert "cluster-announce-ip" in str(told.value)
    answer = check(cluster.url)
    assert answer.returncode == 0  # it may be a matter of time
    assert address in answer.stderr
    assert "cluster-announce-ip" in answer.stderr


def test_hostnames(start_cluster, run_id):
    cluster = start_cluster(1, 0)
    announce(cluster, "cluster-announce-hostname", "localhost")
    store = EventStore(cluster.url)
    store.check_ready()
    assert {each.node.split(":")[0] for each in store.shards()} == {"localhost"}
    store.add(run_id, "llm", "stream")
    assert len(store.get_events(run_id)) == 1


@needs(REDIS_OF_DEBIAN)
def test_tls_with_a_user(tmp_path, run_id, followers):
    certificate, key = make_certificate(tmp_path)
    options = (
        *("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate),
        *("--tls-auth-clients", "no", "--tls-cluster", "yes"),
    )
    cluster = ClusterServers(tmp_path / "tls", 3, 0, *options, binary=REDIS_OF_DEBIAN.binary)
    ports = [free_port() for _ in cluster.nodes]
    for node, port in zip(cluster.nodes, ports, strict=True):
        node._options = (*node._options, "--tls-port", str(port))
    with cluster:
        for node in cluster.nodes:
            with node.client() as client:
                set_user(client, "tailrace", RULES)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        url = f"rediss+cluster://tailrace:password@{hosts}?ssl_ca_certs={certificate}"
        store = EventStore(url)
        store.check_ready()
        assert {each.node for each in store.shards()} == set(hosts.split(","))
        ours = followers(store)
        ours.follow(run_id)
        ours.wait_for(run_id, store.append(run_id, "llm", "stream").event.sequence)
        with pytest.raises(StoreUnavailable):
            EventStore(url.replace(":password", ":wrong")).check_ready()


def make_certificate(folder: Path) -> tuple[str, str]:
    """Return the paths of a certificate of 127.0.0.1 and of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(certificate), str(key)
