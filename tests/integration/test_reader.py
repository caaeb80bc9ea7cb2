"""The shared reader on a real server: logs of other writers, replaced logs, lost connections."""

import pytest
import redis

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import GatewayServer, wait_until


def stream_url(gateway: GatewayServer, run_id: str, query: str = "") -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream?{query}"


def add_as_another_writer(client: redis.Redis, run_id: str, data: object, **fields: object) -> None:
    names = {"event_category": "llm", "event_action": "stream"}
    client.xadd(f"run:{run_id}:events", {**names, "data": str(data), **fields})


# In one step, also on a cluster, where redis-py has no transactions over a pipeline.
ADD_FIFTY_AND_TRIM = """
for number = 1, 50 do
  local event = {'event_category', 'llm', 'event_action', 'stream', 'data', number}
  redis.call('XADD', KEYS[1], '*', unpack(event))
end
redis.call('XTRIM', KEYS[1], 'MAXLEN', 5)
"""


@pytest.mark.parametrize("rules", ["-client", "-client|unblock", "-@dangerous"])
def test_new_feeds_are_followed_on_a_server_that_forbids_client_unblock(
    start_redis, start_gateway, run_id, rules
):
    server = start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", ">word", "~*", "+@all", rules)
    guest = server.url.replace("redis://", "redis://guest:word@")
    gateway = start_gateway(guest)
    store = EventStore(server.url)
    with (
        Stream(stream_url(gateway, run_id)) as first,
        Stream(stream_url(gateway, f"{run_id}-2")) as second,
    ):
        for stream in (first, second):
            stream.wait_for_control("caught_up")
        store.add(run_id, "llm", "stream")
        store.add(f"{run_id}-2", "llm", "stream")
        first.wait_for_events(1)
        second.wait_for_events(1)


def test_a_log_replaced_within_one_millisecond_is_a_reset(gateway, redis_client, run_id):
    key = f"run:{run_id}:events"

    def begin(pipeline: redis.client.Pipeline, *ids: str) -> None:
        for number, event_id in enumerate(ids, 1):
            pipeline.xadd(key, {"sequence": number, "data": f'"{event_id}"'}, id=event_id)

    with redis_client.pipeline() as pipeline:
        begin(pipeline, "1000-0", "1000-1")
        pipeline.execute()
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        with redis_client.pipeline() as pipeline:
            pipeline.delete(key)
            begin(pipeline, "1000-0", "1001-0")
            pipeline.execute()
        stream.wait_for_control("reset")
        stream.wait_for_events(4)
    assert [event.json["id"] for event in stream.events[2:]] == ["1000-0", "1001-0"]


def test_a_gap_in_a_log_without_sequences_is_reported(gateway, redis_client, run_id):
    add_as_another_writer(redis_client, run_id, 0)
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        redis_client.eval(ADD_FIFTY_AND_TRIM, 1, f"run:{run_id}:events")
        stream.wait_for_control("gap")
        stream.wait_for_events(6)
    assert [event.json["data"] for event in stream.events] == [0, 46, 47, 48, 49, 50]


def test_sequences_of_another_writer_cause_no_gap(gateway, redis_client, run_id):
    """Every sequence is 1, as in a tutorial's producer, and the log is trimmed meanwhile."""
    key = f"run:{run_id}:events"
    for number in range(300):
        add_as_another_writer(redis_client, run_id, number, sequence=1)
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        first = stream.events[0].json["id"]
        redis_client.xtrim(key, maxlen=100, approximate=False)
        with Stream(stream_url(gateway, run_id), {"Last-Event-ID": first}) as late:
            assert late.wait_for_control("gap").json["data"]["requested"] == first
            for number in range(300, 600):
                add_as_another_writer(redis_client, run_id, number, sequence=1)
            stream.wait_for_events(600)
            late.wait_for_events(400)
    assert [event.json["data"] for event in stream.events] == list(range(600))
    assert [event.json["data"] for event in late.events] == list(range(200, 600))
    assert [control.event for control in stream.controls] == ["gateway.caught_up"]


def test_a_new_client_of_a_deleted_log_gets_no_reset(gateway, store, run_id):
    store.add(run_id, "llm", "stream")
    with Stream(stream_url(gateway, run_id)) as old:
        old.wait_for_control("caught_up")
        store.delete(run_id)
        with Stream(stream_url(gateway, run_id)) as new:
            assert new.wait_for_control("caught_up").last_event_id == "0-0"
            store.add(run_id, "llm", "stream")
            new.wait_for_events(1)
            old.wait_for_events(2)
    assert [message.event for message in new.messages] == ["gateway.caught_up", "llm.stream"]
    assert [control.event for control in old.controls] == ["gateway.caught_up", "gateway.reset"]


def reader_ids(client: redis.Redis, gateway: GatewayServer) -> list[str]:
    """Return the ids of the connections on which the gateway's readers wait in XREAD.

    A connection of the test process can have XREAD as its last command too.
    """
    [worker] = gateway.workers()
    ports = {each.laddr.port for each in worker.net_connections(kind="tcp")}
    return [
        each["id"]
        for each in client.client_list()
        if each["cmd"] == "xread" and int(each["addr"].rpartition(":")[2]) in ports
    ]


def test_a_reader_whose_connection_is_killed_goes_on(gateway, store, redis_client, run_id):
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        for number in range(1, 6):
            for each in reader_ids(redis_client, gateway):
                redis_client.client_kill_filter(_id=each)
            store.add(run_id, "llm", "stream")
            stream.wait_for_events(number)
    assert stream.sequences == [1, 2, 3, 4, 5]


def test_readers_end_with_their_feeds(gateway, store, redis_client, run_id):
    streams = [Stream(stream_url(gateway, f"{run_id}-{number}")) for number in range(130)]
    for stream in streams:
        stream.wait_for_control("caught_up")
    wait_until(lambda: len(reader_ids(redis_client, gateway)) >= 3, "three readers for 130 runs")
    for stream in streams[5:]:
        stream.close()
    wait_until(lambda: len(reader_ids(redis_client, gateway)) == 1, "one reader is left")
    for stream, number in zip(streams[:5], range(5), strict=True):
        store.add(f"{run_id}-{number}", "llm", "stream")
        stream.wait_for_events(1)
        stream.close()
    wait_until(lambda: not reader_ids(redis_client, gateway), "no reader is left")


def test_a_log_that_expires_is_a_reset_and_its_successor_is_followed(
    gateway, redis_client, store, run_id
):
    store.add(run_id, "llm", "stream", "before")
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_events(1)
        stream.wait_for_control("caught_up")
        redis_client.pexpire(f"run:{run_id}:events", 50)
        data = stream.wait_for_control("reset").json["data"]
        assert (data["earliest"], data["latest"]) == (None, None)
        store.add(run_id, "llm", "stream", "after")
        assert stream.wait_for_events(2)[-1].json["data"] == "after"


def test_a_key_of_another_type_is_a_reset_and_the_next_log_is_followed(
    gateway, redis_client, store, run_id
):
    key = f"run:{run_id}:events"
    store.add(run_id, "llm", "stream", "before")
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        redis_client.set(key, "something else")
        data = stream.wait_for_control("reset").json["data"]
        assert (data["earliest"], data["latest"]) == (None, None)
        redis_client.delete(key)
        store.add(run_id, "llm", "stream", "after")
        assert stream.wait_for_events(2)[-1].json["data"] == "after"
        assert len(stream.controls) == 2
