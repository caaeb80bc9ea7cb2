"""A partition: a minority of the nodes is cut off, and gateways still reach all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.partition import PartitionableCluster
from tests.cluster.test_failover import Producers, System, compare, followed
from tests.servers import wait_until


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[PartitionableCluster]:
    with PartitionableCluster(tmp_path / "cluster", 3, 1) as servers:
        yield servers


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with another's replica"])
def test_a_master_that_is_cut_off_loses_its_slots_and_nothing_else(cluster, start_gateway, alone):
    system = System(cluster, start_gateway(cluster.url))
    former = system.victim
    others = [node for node in cluster.masters if node is not former]
    [replica] = cluster.replicas_of(others[0])
    with followed(system.gateway, system.run_ids) as streams:
        producers = Producers(system.gateway, system.run_ids)
        producers.wait_for(20)
        cluster.cut_off({former} if alone else {former, replica})
        wait_until(lambda: b"state:fail" in cluster.command(former, "CLUSTER", "INFO"), "it knows")

        def is_led_by_another() -> bool:
            slots = cluster.command(others[0], "CLUSTER", "SLOTS")
            return former.port not in {master[1] for _, _, master, *_ in slots}

        wait_until(is_led_by_another, "its replica has taken over", 30)
        producers.wait_for(20)  # while the two parts do not agree
        assert cluster.info(former)["role"] == "master"
        cluster.join()
        wait_until(lambda: cluster.info(former)["role"] == "slave", "it is a replica", 30)
        producers.wait_for(20)
        lost = compare(system, streams, producers)
        print(f"{lost} acknowledged events were lost")
        for run_id in system.run_ids[1:]:
            assert set(producers.acknowledged[run_id]) <= {
                each.json["id"] for each in streams[run_id].events
            }
