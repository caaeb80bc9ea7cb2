"""What a worker learns of the cluster while nobody follows runs, and nobody appends."""

from typing import Any

from app.auth import revocation_log
from app.auth.grants import Grants
from app.auth.identity import Identity
from app.auth.revocation_log import REVOCATIONS, RevocationLog
from app.streaming.event_store import EventStore
from app.streaming.redis import server as server_module
from tests.cluster_servers import ClusterServers
from tests.servers import wait_until


def reads_of_the_map(cluster: ClusterServers) -> int:
    """Return how often the nodes have told the map."""
    count = 0
    for node in cluster.masters:
        with node.client() as client:
            found: dict[str, Any] = client.info("commandstats")
            count += found.get("cmdstat_cluster|slots", {"calls": 0})["calls"]
    return count


def test_a_gateway_reads_the_map_again_and_again(start_cluster, start_gateway):
    cluster = start_cluster(3, 0)
    start_gateway(cluster.url, WEB_CONCURRENCY=1)
    before = reads_of_the_map(cluster)
    # The sampler reads it too, once from each node in 15 seconds.
    wait_until(lambda: reads_of_the_map(cluster) >= before + 16, "it has read the map", 20)


def test_after_the_failover_of_a_frozen_master_revocations_do_not_wait_for_its_time_out(
    start_cluster, monkeypatch
):
    for module in (server_module, revocation_log):
        monkeypatch.setattr(module, "MAX_BLOCK_SECONDS", 3600.0)
    cluster = start_cluster(3, 1)
    log = RevocationLog(EventStore(cluster.url).engine, lambda: None)
    log.wait_until_read()
    frozen = cluster.owner_of_key(REVOCATIONS)
    wait_until(lambda: int(cluster.info(frozen)["blocked_clients"]) == 1, "it waits for more")
    frozen.pause()
    try:
        wait_until(lambda: cluster.owner_of_key(REVOCATIONS) is not frozen, "a failover", 30)
        other = EventStore(cluster.url)
        RevocationLog(other.engine, lambda: None).append({"jti": "t1"})
        revoked = Identity("u", Grants({}), "u", 1.0, "t1")
        wait_until(lambda: log.revocations.include(revoked), "the token is revoked")
    finally:
        frozen.resume()
