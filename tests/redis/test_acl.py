"""The smallest ACL: all works with it, and nothing of it can be left out."""

import contextlib
from functools import partial

import pytest
import redis

from app.auth.revocation_log import REVOCATIONS
from app.streaming.errors import StoreUnavailable, StreamingError, UnsupportedServer
from app.streaming.event_store import EventStore
from tests.contract.stories import Tally, compare
from tests.contract.world import World
from tests.redis.acl import OPTIONAL, SECRET, acl_of, refused, set_user, url_of, use_everything
from tests.redis.programs import REDIS_OF_DEBIAN, every_program, needs, on_both
from tests.servers import GatewayServer, RedisServer, ReplicatedServers, wait_until

RULES = acl_of("tailrace")
KEYS = [rule for rule in RULES if rule.startswith("~")]
COMMANDS = [rule for rule in RULES if rule.startswith("+")]

NEEDED = [rule for rule in COMMANDS if rule not in OPTIONAL]

# What TLS needs, and a database other than 0, is tried by itself.
CONNECTING = {"+ping", "+select"}


@every_program
def test_a_gateway_with_the_smallest_acl_is_refused_nothing(program, start_program, start_gateway):
    server = start_program(program)
    with server.client() as client:
        set_user(client, "tailrace", RULES)
        store = EventStore(url_of("tailrace", server))
        store.check_ready(REVOCATIONS)
        gateway = start_gateway(url_of("tailrace", server), AUTH_SECRET=SECRET)
        use_everything(gateway, store, client)
        assert refused(client) == set()


@on_both
def test_the_contract_holds_with_the_smallest_acl(program, start_program, start_gateway):
    server = start_program(program)
    with server.client() as client:
        set_user(client, "tailrace", RULES)
        gateway = start_gateway(url_of("tailrace", server))
        tally = Tally()
        fault = compare(1, partial(World, gateway.port, client), 8, tally)
        assert fault is None, f"{fault.error!r}\n{fault}"
        assert tally.operations > 100
        assert refused(client) == set()


class Tried:
    """A server, and what was refused there to a user that lacks a rule."""

    def __init__(self, server: RedisServer, client: redis.Redis):
        self._server = server
        self._client = client

    def without(self, rule: str, start_gateway) -> None:
        """Raise AssertionError unless something is refused to a user that lacks a rule."""
        self._client.flushall()
        set_user(self._client, "tailrace", [each for each in RULES if each != rule])
        store_url = url_of("tailrace", self._server)
        store = EventStore(store_url)
        with contextlib.suppress(UnsupportedServer):
            EventStore(store_url, ack_replicas=1).check_ready(REVOCATIONS)
        if self.refused(rule):
            return
        gateway: GatewayServer = start_gateway(store_url, AUTH_SECRET=SECRET)
        with contextlib.suppress(StreamingError):
            use_everything(gateway, store, self._client, partial(self.refused, rule))
        assert self.refused(rule), f"nothing needs {rule}"

    def refused(self, rule: str) -> bool:
        found = refused(self._client)
        if rule.startswith("~"):
            return any(each.startswith(rule[1:-1]) for each in found)
        return rule[1:] in found


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    binary = REDIS_OF_DEBIAN.path
    directory = tmp_path_factory.mktemp("redis")
    with RedisServer(directory, binary=binary) as server, server.client() as client:
        yield Tried(server, client)


@needs(REDIS_OF_DEBIAN)
@pytest.mark.parametrize("rule", [*KEYS, *(each for each in COMMANDS if each not in CONNECTING)])
def test_nothing_of_the_smallest_acl_can_be_left_out(tried, start_gateway, rule):
    tried.without(rule, start_gateway)


@every_program
def test_readiness_names_each_command_and_each_key_that_a_server_forbids(program, start_program):
    server = start_program(program)
    with server.client() as client:
        for rule in [*NEEDED, *KEYS[:2]]:
            set_user(client, "tailrace", [each for each in RULES if each != rule])
            name = "keys like run:" if rule in KEYS else rule[1:].partition("|")[0]
            with pytest.raises(UnsupportedServer, match=rf"(?i)forbids {name}"):
                EventStore(url_of("tailrace", server)).check_ready()


@needs(REDIS_OF_DEBIAN)
def test_another_database_needs_select(start_program):
    server = start_program(REDIS_OF_DEBIAN)
    with server.client() as client:
        set_user(client, "tailrace", [each for each in RULES if each != "+select"])
        with pytest.raises(StoreUnavailable):
            EventStore(url_of("tailrace", server, database=1)).check_ready()
        assert refused(client) == {"select"}
        set_user(client, "tailrace", RULES)
        EventStore(url_of("tailrace", server, database=1)).check_ready()


@every_program
def test_a_reader_reads_and_writes_nothing(program, start_program):
    server = start_program(program)
    owner = EventStore(server.url)
    owner.add("a", "llm", "stream", 1)
    owner.add("a", "request", "cancel", 1)
    owner.add("a", "lifecycle", "completed")
    with server.client() as client:
        client.xadd("run:others:events", {"event_category": "llm", "event_action": "stream"})
        set_user(client, "reader", acl_of("reader"))
        reader = EventStore(url_of("reader", server))
        before = client.dbsize()
        assert len(reader.get_events("a")) == 3
        assert len(reader.get_events("a", descending=True)) == 3
        assert len(reader.subscribe("a", "0-0")) == 3
        assert [each.event for each in reader.requests("a")]
        assert reader.state("a", ttl=True).ended
        assert refused(client) == set()
        assert reader.get_events("others")
        with pytest.raises(StoreUnavailable):
            reader.add("a", "llm", "stream", 2)
        with pytest.raises(StoreUnavailable):
            reader.delete("a")
        assert client.dbsize() == before
        assert owner.state("a").last_sequence == 3


def test_a_gateway_may_do_at_sentinels_only_what_it_needs(tmp_path):
    servers = ReplicatedServers(tmp_path)
    try:
        with redis.Redis(port=servers.port, protocol=2) as sentinel:
            set_user(sentinel, "gateway", acl_of("gateway"))
            store = EventStore(
                f"{servers.url}?sentinel_username=gateway&sentinel_password=password"
            )
            store.add("a", "llm", "stream", 1)
            servers.switch()
            wait_until(lambda: servers.master_port() == servers.replica.port, "promoted", 30)
            wait_until(lambda: is_ready(store), "the store has found the new master", 30)
            assert store.add("a", "llm", "stream", 2)
            assert refused(sentinel) == set()
    finally:
        servers.stop()


def is_ready(store: EventStore) -> bool:
    with contextlib.suppress(StoreUnavailable):
        store.check_ready()
        return True
    return False
