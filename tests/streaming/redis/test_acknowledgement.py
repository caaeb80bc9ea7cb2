"""The WAIT behind a round trip: what becomes of its callers, on a server without replicas."""

import threading
from collections import defaultdict
from types import SimpleNamespace

import pytest
import redis
from redis.exceptions import ResponseError

from app.metrics.catalog import REDIS_ERRORS
from app.metrics.values import own_row
from app.streaming.errors import NotReplicated
from app.streaming.redis import connection, redis_url, shared_connection
from app.streaming.redis.acknowledgement import (
    Acknowledgement,
    ReplicaWatch,
    Unacknowledged,
    acknowledged,
)
from app.streaming.redis.server import Server
from app.streaming.redis.shared_connection import SharedConnection
from tests.servers import RedisServer, wait_until
from tests.streaming.redis.callers import (
    Caller,
    blocked_leader,
    share_to,
    start_waiting,
    stored,
)

QUICK = 0.001


def share_with(
    server: RedisServer, replicas: int, seconds: float = QUICK, **settings: str
) -> SharedConnection:
    """Return a shared connection on which so many replicas must have what is written."""
    return share_to(server, 0, Acknowledgement(replicas, seconds), **settings)


def waits(client: redis.Redis) -> int:
    """Return how often the server was sent WAIT."""
    return client.info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"]


def test_replies_are_what_they_are_if_enough_replicas_have_it(redis_server, run_id):
    shared = share_with(redis_server, 0)
    assert shared.call_all(("SET", run_id, "a"), ("GET", run_id)) == [b"OK", b"a"]
    assert isinstance(shared.call("XLEN", run_id), ResponseError)
    assert shared.call_all() == []


def test_with_too_few_replicas_each_reply_says_so_but_refusals_stay(redis_server, run_id):
    shared = share_with(redis_server, 2)
    was_set, refused, value = shared.call_all(("SET", run_id, "a"), ("XLEN", run_id), ("GET", "-"))
    assert (was_set.reply, value.reply) == (b"OK", None)
    assert was_set.reason == "only 0 of 2 replicas have it after 0.001 s"
    assert connection.is_wrong_type(refused)
    with pytest.raises(NotReplicated, match="only 0 of 2") as raised:
        acknowledged(was_set)
    assert raised.value.stored is None
    assert acknowledged(value) is None, "nothing was written"
    assert shared.call_all() == []


def test_all_callers_of_a_round_trip_share_one_wait(breakable):
    shared = share_with(breakable, 0)
    with breakable.client() as client:
        with blocked_leader(shared, client, "key"):
            before = waits(client)
            callers = start_waiting(shared, *[("INCR", "n")] * 20)
        assert [caller.outcome for caller in callers] == list(range(1, 21))
        assert waits(client) - before == 2, "one is that of the leader"


def test_wait_is_no_command_of_the_metric(redis_server, monkeypatch):
    counted = defaultdict(list)  # by thread: those of other tests count here too

    def observe(commands: int) -> None:
        counted[threading.get_ident()].append(commands)

    histogram = SimpleNamespace(observe=observe)
    monkeypatch.setattr(shared_connection, "ROUND_TRIP_COMMANDS", histogram)
    share_with(redis_server, 1).call_all(*[("ECHO", "a")] * 3)
    assert counted[threading.get_ident()] == [3]


def test_a_lack_of_replicas_is_counted_and_counts_all_leases_anew(redis_server):
    shared = share_with(redis_server, 1)
    shared.call("ECHO", "connects")
    place, since = REDIS_ERRORS.of("replicas").index, shared._availability._since
    before = own_row()[place]
    shared.call("SET", "a", "b")
    assert own_row()[place] == before + 1
    assert shared._availability._since > since


def test_those_that_wait_meanwhile_are_not_sent(redis_server, redis_client, run_id):
    """Each would wait as long again, and then not be acknowledged either."""
    shared = share_with(redis_server, 1, 0.5)
    shared.call("PING")
    leader = Caller(shared, "INCR", run_id)
    wait_until(lambda: redis_client.get(run_id), "it is carried out")
    late = start_waiting(shared, *[("INCR", run_id)] * 5)
    assert isinstance(leader.outcome, Unacknowledged)
    assert stored(late) == [False] * 5
    assert "only 0 of 1 replicas" in str(late[0].outcome)
    assert shared.call("INCR", run_id).reply == 2


def test_a_refusal_alone_holds_up_nobody(breakable):
    """Nothing was written, so there is nothing for replicas to have."""
    shared = share_with(breakable, 1, 0.5)
    with breakable.client() as client:
        client.set("text", "a")
        leader = Caller(shared, "XLEN", "text")
        wait_until(lambda: waits(client) or client.info("clients")["blocked_clients"], "it waits")
        late = start_waiting(shared, ("ECHO", "a"))
    assert connection.is_wrong_type(leader.outcome)
    assert late[0].outcome.reply == b"a"


def test_where_wait_is_forbidden_the_reason_says_so(redis_server, redis_client, run_id):
    redis_client.execute_command("ACL", "SETUSER", "waitless", "on", "nopass", "~*", "+@all",
                                 "-wait")  # fmt: skip
    shared = share_with(redis_server, 1, username="waitless", password="any")
    reply = shared.call("INCR", run_id)
    assert reply.reply == 1
    assert "Redis refused WAIT" in reply.reason
    assert "permission" in reply.reason
    redis_client.execute_command("ACL", "DELUSER", "waitless")


def test_a_connection_that_is_lost_while_replicas_are_asked_leaves_it_unknown(breakable):
    shared = share_with(breakable, 1, 19)
    shared._acknowledgement = None
    own_id = shared.call("CLIENT", "ID")
    shared._acknowledgement = Acknowledgement(1, 19)
    with breakable.client() as client:
        caller = Caller(shared, "INCR", "n")
        wait_until(lambda: client.info("clients")["blocked_clients"], "it waits for replicas")
        client.client_kill_filter(_id=own_id)
        assert stored([caller]) == [None]
        assert client.get("n") == b"1"


def test_the_wait_is_shorter_than_the_time_out_of_commands():
    packed = [
        Server(redis_url.make_client(f"redis://localhost/0{query}"), 2).writes._acknowledgement
        for query in ("", "?socket_timeout=1", "?socket_timeout=0.0001")
    ]
    seconds = [each.packed.split(b"\r\n")[-2] for each in packed]
    assert seconds == [b"1000", b"500", b"1"], "0 would be for ever"


def test_without_replicas_to_ask_nothing_is_sent_and_there_is_no_second_connection(breakable):
    server = Server(redis_url.make_client(breakable.url))
    assert server.writes is server.shared
    server.writes.call("SET", "a", "b")
    server._probe()
    with breakable.client() as client:
        assert not {"cmdstat_wait", "cmdstat_info"} & client.info("commandstats").keys()


# The watch over replicas


def info(offset: int, *replicas: int, state: str = "online") -> dict[str, str]:
    return {"role": "master", "master_repl_offset": str(offset)} | {
        f"slave{number}": f"ip=127.0.0.1,port=1,state={state},offset={replica},lag=0"
        for number, replica in enumerate(replicas)
    }


def test_replicas_that_keep_up_are_enough():
    watch = ReplicaWatch(2)
    for offset in range(200, 1000, 100):
        watch.check(info(offset, offset - 100, offset - 150))


def test_a_replica_that_stands_still_is_noticed_once_something_was_written():
    watch = ReplicaWatch(1)
    for _ in range(9):
        watch.check(info(100, 100))
    for _ in range(2):
        watch.check(info(200, 100))
    with pytest.raises(NotReplicated, match="only 0 of 1 replicas keep up") as raised:
        watch.check(info(200, 100))
    assert raised.value.stored is False
    watch.check(info(300, 200))


@pytest.mark.parametrize("fields", [info(1), info(1, 1, state="wait_bgsave")])
def test_replicas_that_are_not_there_or_not_yet_in_step_do_not_count(fields):
    with pytest.raises(NotReplicated):
        ReplicaWatch(1).check(fields)


def test_a_server_that_was_emptied_begins_anew():
    watch = ReplicaWatch(1)
    for offset in (1000, 1100, 1200, 10, 20, 30):
        watch.check(info(offset, offset))


def test_where_info_is_forbidden_nobody_knows():
    ReplicaWatch(1).check({})
