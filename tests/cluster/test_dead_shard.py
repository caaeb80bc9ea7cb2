"""A shard that is away, and the list of runs, metrics, long polls and revocations meanwhile."""

import concurrent.futures

import pytest
import requests

from app.auth.revocation_log import REVOCATIONS
from app.streaming.runs.run_index import ACTIVE
from tests.clients import Stream
from tests.cluster_servers import ClusterServers
from tests.integration.test_access import SECRET, admin, append, bearer, stream_url, token
from tests.integration.test_metrics import EVENT, Metrics, read
from tests.servers import GatewayServer, RedisServer, wait_until


@pytest.fixture
def cluster(start_cluster) -> ClusterServers:
    return start_cluster(3, 0, options=("--appendonly", "yes", "--appendfsync", "always"))


def post(gateway: GatewayServer, run_id: str, action: str = "started") -> int:
    event = EVENT | {"event_category": "lifecycle", "event_action": action}
    url = f"{gateway.url}/runs/{run_id}/events"
    return requests.post(url, json=event, timeout=30).status_code


def not_index(cluster: ClusterServers) -> tuple[RedisServer, RedisServer]:
    """Return a node that has not the index of runs, and another one."""
    index = cluster.owner_of_key(ACTIVE)
    first, second = [node for node in cluster.masters if node is not index]
    return first, second


def bring_back(cluster: ClusterServers, node: RedisServer) -> None:
    node.start()
    wait_until(cluster.serves, "all nodes serve again", 30)


def listed(gateway: GatewayServer) -> requests.Response:
    return requests.get(f"{gateway.url}/runs", timeout=30)


def ids_in(response: requests.Response) -> set[str]:
    return {each["run_id"] for each in response.json()["runs"]}


def told_of(stream: Stream) -> list[tuple[str, str]]:
    """Return the runs of which a stream of changes has told, and what."""
    return [(each.json["run_id"], each.json["event"]["action"]) for each in stream.messages
            if each.json["event"]["category"] == "lifecycle"]  # fmt: skip


def test_the_list_of_runs_without_a_shard(cluster, start_gateway):
    gateway = start_gateway(cluster.url)
    victim, other = not_index(cluster)
    [lame], [here, later, last] = cluster.runs_on(victim, 1), cluster.runs_on(other, 3)
    with Stream(f"{gateway.url}/runs/stream") as changes:
        assert [post(gateway, each) for each in (lame, here)] == [201, 201]
        changes.wait_for_events(2)
        victim.stop()
        assert post(gateway, later) == 201
        assert ids_in(listed(gateway)) == {here, later}
        assert listed(gateway).json()["unavailable"] == [lame]
        wait_until(lambda: (later, "started") in told_of(changes), "the changes go on")
        with Stream(f"{gateway.url}/runs/stream") as anew:
            wait_until(lambda: told_of(anew) == told_of(changes), "others come too")
        assert post(gateway, lame, "completed") == 503
        bring_back(cluster, victim)
        wait_until(lambda: post(gateway, lame, "completed") == 201, "it ends")
        assert post(gateway, last) == 201
        wait_until(lambda: (last, "started") in told_of(changes), "all is told")
        assert told_of(changes) == [
            *((each, "started") for each in (lame, here, later)),
            *((lame, "completed"), (last, "started")),
        ]
        assert ids_in(listed(gateway)) == {lame, here, later, last}
        assert "unavailable" not in listed(gateway).json()


def test_the_list_of_runs_without_the_shard_that_has_it(cluster, start_gateway):
    gateway = start_gateway(cluster.url)
    index, (other, _) = cluster.owner_of_key(ACTIVE), not_index(cluster)
    here, later = cluster.runs_on(other, 2)
    with Stream(f"{gateway.url}/runs/stream") as changes:
        assert post(gateway, here) == 201
        changes.wait_for_events(1)
        index.stop()
        assert post(gateway, later) == 201
        assert post(gateway, here, "completed") == 201
        with Stream(f"{gateway.url}/runs/{here}/events/stream") as stream:
            stream.wait_for_events(2)
        assert listed(gateway).status_code == 503
        with Stream(f"{gateway.url}/runs/stream") as anew:  # the changes are followed already
            assert not changes.ended
            bring_back(cluster, index)
            wait_until(lambda: len(told_of(changes)) == 3, "what was held is told", 30)
            assert told_of(changes) == [(here, "started"), (later, "started"), (here, "completed")]
            wait_until(lambda: told_of(anew) == told_of(changes), "the other gets the same")
        wait_until(lambda: ids_in(listed(gateway)) == {here, later}, "the list has them")


def test_the_metrics_say_how_many_nodes_are_away(cluster, start_gateway):
    gateway = start_gateway(cluster.url)
    index, (other, _) = cluster.owner_of_key(ACTIVE), not_index(cluster)
    [run_id] = cluster.runs_on(other, 1)

    def figures() -> tuple[float, float]:
        metrics: Metrics = read(gateway)
        return metrics["redis_up"], metrics["redis_nodes_away"]

    assert figures() == (1, 0)
    index.stop()
    wait_until(lambda: figures() == (1, 1), "one is away", 30)
    index.start()
    wait_until(lambda: figures() == (1, 0), "all are back", 30)
    wait_until(lambda: post(gateway, run_id) == 201, "appends are taken")
    wait_until(lambda: read(gateway).of("runs", state="active") == 1, "the index is counted", 30)
    # Two of the reader, and those of the pools.
    assert 3 <= read(gateway)["redis_connections"] <= 3 * (2 + 16)


def test_long_polls_without_a_shard(cluster, start_gateway):
    gateway = start_gateway(cluster.url)
    victim, other = not_index(cluster)
    [lame], [here] = cluster.runs_on(victim, 1), cluster.runs_on(other, 1)
    ids = {}
    for run_id in (lame, here):
        assert post(gateway, run_id) == 201
        page = requests.get(f"{gateway.url}/runs/{run_id}/events", timeout=20).json()
        ids[run_id] = page["events"][0]["id"]

    def poll(run_id: str, seconds: int = 30) -> requests.Response:
        query = {"after": ids[run_id], "wait": seconds}
        return requests.get(f"{gateway.url}/runs/{run_id}/events", params=query, timeout=60)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        polls = {run_id: pool.submit(poll, run_id) for run_id in (lame, here)}
        wait_until(lambda: read(gateway).of("streams_open", kind="long_poll") == 2, "both wait")
        victim.stop()
        assert poll(lame).status_code == 503
        assert post(gateway, here, "completed") == 201
        assert [each["sequence"] for each in polls[here].result().json()["events"]] == [2]
        bring_back(cluster, victim)
        wait_until(lambda: post(gateway, lame, "completed") == 201, "it ends")
        answer = polls[lame].result()
        assert answer.status_code == 200
        assert [each["sequence"] for each in answer.json()["events"]] == [2]


def test_revocations_without_the_shard_that_has_them(cluster, start_gateway):
    settings = {"AUTH_SECRET": SECRET}
    gateway = start_gateway(cluster.url, **settings)
    victim = cluster.owner_of_key(REVOCATIONS)
    other = next(node for node in cluster.masters if node is not victim)
    [run_id] = cluster.runs_on(other, 1)
    before, doomed, kept = (bearer(token(jti=each)) for each in ("before", "doomed", "kept"))

    def revoke(token_id: str) -> int:
        url = f"{gateway.url}/revocations"
        body = {"jti": token_id}
        return requests.post(url, json=body, headers=admin(), timeout=30).status_code

    assert revoke("before") == 204
    wait_until(lambda: append(gateway, run_id, before) == 401, "it is refused")
    with (
        Stream(stream_url(gateway, run_id), doomed) as ends,
        Stream(stream_url(gateway, run_id), kept) as goes_on,
    ):
        for each in (ends, goes_on):
            each.wait_for_control("caught_up")
        victim.stop()
        assert revoke("doomed") == 503
        assert append(gateway, run_id, before) == 401
        assert append(gateway, run_id, doomed) == 201
        for each in (ends, goes_on):
            each.wait_for_events(1)
        later = start_gateway(cluster.url, **settings)  # it cannot know who was revoked
        assert append(later, run_id, kept) == 503
        bring_back(cluster, victim)
        wait_until(lambda: revoke("doomed") == 204, "it is revoked")
        ends.wait_for_end()
        for each in (gateway, later):
            wait_until(lambda: append(each, run_id, doomed) == 401, "it is refused")  # noqa: B023
            assert append(each, run_id, before) == 401
            wait_until(lambda: append(each, run_id, kept) == 201, "others are not")  # noqa: B023
        assert not goes_on.ended


def test_with_full_coverage_a_dead_shard_stops_all(tmp_path, start_gateway):
    options = "--cluster-require-full-coverage", "yes", "--appendonly", "yes"
    with ClusterServers(tmp_path / "whole", 3, 0, *options) as cluster:
        gateway = start_gateway(cluster.url)
        run_ids = [cluster.runs_on(node, 1)[0] for node in cluster.masters]
        assert [post(gateway, run_id) for run_id in run_ids] == [201] * 3
        victim = cluster.master_of(run_ids[0])
        with Stream(stream_url(gateway, run_ids[1])) as stream:
            stream.wait_for_control("caught_up")
            victim.stop()
            for run_id in run_ids:
                wait_until(lambda: post(gateway, run_id, "resumed") == 503, "it is refused", 30)  # noqa: B023
            wait_until(lambda: read(gateway)["redis_up"] == 0, "the metrics say so", 30)
            url = f"{gateway.url}/readyz"
            wait_until(lambda: requests.get(url, timeout=20).status_code == 503, "not ready", 30)
            bring_back(cluster, victim)
            for run_id in run_ids:
                wait_until(lambda: post(gateway, run_id, "completed") == 201, "it is stored", 30)  # noqa: B023
            stream.wait_for_end()
            assert stream.events[-1].json["event"]["action"] == "completed"
            assert not {each.json["event"]["action"] for each in stream.controls} & {"gap", "reset"}


def test_a_stream_of_several_runs_without_a_shard(cluster, start_gateway):
    gateway = start_gateway(cluster.url)
    victim, other = not_index(cluster)
    [lame, unfollowed], [here] = cluster.runs_on(victim, 2), cluster.runs_on(other, 1)
    for run_id in (lame, unfollowed, here):
        assert post(gateway, run_id) == 201
    url = f"{gateway.url}/events/stream"

    def told(stream: Stream) -> list[tuple[str, int]]:
        return [(each.json["run_id"], each.json["sequence"]) for each in stream.events]

    with Stream(f"{url}?run={lame}&run={here}") as stream:
        wait_until(lambda: set(told(stream)) == {(lame, 1), (here, 1)}, "both come")
        victim.stop()
        assert post(gateway, here, "resumed") == 201
        wait_until(lambda: (here, 2) in told(stream), "the other run goes on")
        with Stream(f"{url}?run={unfollowed}&run={here}") as anew:
            wait_until(lambda: told(anew) == [(here, 1), (here, 2)], "the run that is there comes")
            bring_back(cluster, victim)
            for run_id in (lame, unfollowed, here):
                wait_until(lambda: post(gateway, run_id, "completed") == 201, "it is stored")  # noqa: B023
            for each in (stream, anew):
                each.wait_for_end(30)
        assert sorted(told(anew)) == sorted(
            [(unfollowed, 1), (unfollowed, 2), *((here, n) for n in (1, 2, 3))]
        )
        assert sorted(told(stream)) == sorted(
            [(lame, 1), (lame, 2), *((here, n) for n in (1, 2, 3))]
        )
        assert not {each.json["event"]["action"] for each in stream.controls} & {"gap", "reset"}
