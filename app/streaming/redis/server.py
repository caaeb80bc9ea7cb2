"""One Redis server: the connections to it, and the clock of the leases of its logs."""

from collections.abc import Sequence
from functools import partial
from weakref import WeakMethod, WeakSet

import redis
from redis.exceptions import NoPermissionError

from ..errors import StoreUnavailable
from . import connection
from .acknowledgement import WAIT_SECONDS, Acknowledgement, ReplicaWatch
from .availability import Availability
from .connection import Argument, Command, RedisConnection, Reply, checked
from .scripts import reads
from .server_warnings import parse_info
from .shared_connection import SharedConnection

TOO_OLD = "the server is too old: Redis 7.0 or newer, or Valkey, is needed"

# A blocking read over `Server.blocking` lasts no longer than this.
MAX_BLOCK_SECONDS = 5.0

# A script that writes nothing. But its first line declares that it may, so a full server or a
# replica refuses to run it. A refusal by a replica makes the connection look for the master.
PING = ("EVAL", "#!lua\nreturn 1", 0)

# A node of a cluster runs PING, which has no key, also while it refuses every key.
CLUSTER_STATE = ("CLUSTER", "INFO")


class Pool:
    """Sends commands over a pool of connections, for reads that may be long."""

    def __init__(self, client: redis.Redis):
        self._client = client

    def call(self, *command: Argument) -> Reply:
        """Send one command and return its raw reply, an error reply as a value."""
        return self.call_all(command)[0]

    def call_all(self, *commands: Command) -> list[Reply]:
        """Send commands together and return their raw replies.

        Raises StoreUnavailable, whose `stored` is None if Redis may have executed a command that
        does more than read.
        """
        try:
            return connection.call_all(self._client, *commands)
        except StoreUnavailable as error:
            if all(map(reads, commands)):
                error.stored = False
            raise

    def call_each(self, *commands: Command) -> list[Reply]:
        """Do what `call_all` does: what fails on one server fails for all of them."""
        return self.call_all(*commands)

    def close(self) -> None:
        """Close all connections of the pool."""
        connection.close_pool(self._client)


class Server:
    """One Redis server, which has all the logs or, as a node of a cluster, some of them.

    Args:
        ack_replicas: how many replicas must have what is sent over `writes`.
        control_timeout: how many seconds `control` waits for an answer; without it, as long as
            the client.
        in_cluster: whether it is a node of a cluster.

    Attributes:
        client: redis-py's client, which holds the settings and the pool.
        address: the host and the port; no port for a Unix socket or behind Sentinels.
        name: the same as text, for messages.
        shared: the connection that concurrent appends and short reads share.
        writes: the connection for what replicas must acknowledge; without any, it is `shared`.
        control: another one like it, so that nothing holds up questions about the server itself.
        pool: connections for reads that may be long.
        blocking: connections for reads that block for up to MAX_BLOCK_SECONDS.
        availability: the clock of the leases of the logs on this server.
    """

    def __init__(
        self,
        client: redis.Redis,
        ack_replicas: int = 0,
        control_timeout: float | None = None,
        in_cluster: bool = False,
    ):
        self.client = client
        settings = client.connection_pool.connection_kwargs
        self.address = settings.get("host", "localhost"), settings.get("port", 0)
        self.name = f"{self.address[0]}:{self.address[1]}"
        self.ack_replicas = ack_replicas
        self._in_cluster = in_cluster
        self._replicas = ReplicaWatch(ack_replicas)
        self._outside_pool: WeakSet[RedisConnection] = WeakSet()
        # What the server refers to does not refer to it: it ends with its sockets once nobody uses
        # it, and waits for no garbage collector.
        probe = WeakMethod(self._probe)
        self.availability = Availability(lambda: (method := probe()) and method())
        connect = partial(_connect, client, self._outside_pool)
        self.shared = SharedConnection(connect, self.availability)
        self.writes = self.shared
        if ack_replicas:
            asked = Acknowledgement(ack_replicas, _wait_seconds(client))
            self.writes = SharedConnection(connect, self.availability, asked)
        self.control = SharedConnection(partial(connect, control_timeout), self.availability)
        self.pool = Pool(client)
        self.blocking = Pool(connection.make_blocking_client(client, MAX_BLOCK_SECONDS))

    @property
    def was_reached(self) -> bool:
        """Whether this process has ever had a connection for appends or for questions."""
        return self.shared.has_connected or self.control.has_connected

    def servers(self) -> "Sequence[Server]":
        """Return the servers that have the logs: this one."""
        return [self]

    def server_of(self, key: str) -> "Server":
        """Return the server that has a key: this one."""
        return self

    def known_server_of(self, key: str) -> "Server":
        """Return the server that has a key: this one."""
        return self

    def lane_of(self, key: str) -> str:
        """Return the name of the server that has a key."""
        return self.name

    def watch(self) -> None:
        """Do nothing: a single server has no map of slots to watch."""

    def ping(self) -> None:
        """Raise StoreUnavailable unless the server responds and accepts writes."""
        asked = [CLUSTER_STATE] if self._in_cluster else []
        reply, *states = self.control.call_all(PING, *asked)
        if not is_unknown_script(reply):
            checked(reply)
        for state in states:
            if parse_info(checked(state)).get("cluster_state") != "ok":
                raise StoreUnavailable("the cluster is down, as this node sees it", stored=False)

    def count_away(self) -> int:
        """Return 0. Raises StoreUnavailable unless the server responds and accepts writes."""
        self.ping()
        return 0

    def _probe(self) -> None:
        """Raise StoreUnavailable if producers cannot write now."""
        try:
            self.ping()
            if self.ack_replicas:
                self._replicas.check(self.info("replication"))
        finally:
            if self.availability.closed:  # meanwhile
                self.control.close()

    def info(self, *sections: str) -> dict[str, str]:
        """Return sections of INFO, or {} if this user may not read it."""
        reply = self.control.call("INFO", *sections)
        return {} if isinstance(reply, NoPermissionError) else parse_info(checked(reply))

    def connect(self, read_timeout: float | None = None) -> RedisConnection:
        """Return a new connection outside the pool, not yet connected.

        `read_timeout` is in seconds; without it, it is that of the client.
        """
        return _connect(self.client, self._outside_pool, read_timeout)

    def count_connections(self) -> int:
        """Return how many connections to the server are open."""
        return connection.count_open(self.client, self._outside_pool)

    def close(self) -> None:
        """Close all connections, and end the clock.

        A call that is in progress fails; the next one connects anew.
        """
        self.availability.close()
        self.shared.close()
        self.writes.close()
        self.control.close()
        self.pool.close()
        self.blocking.close()

    def release_idle(self) -> None:
        """Close the unused connections of the pool; after an outage they are dead."""
        self.client.connection_pool.disconnect(inuse_connections=False)


def _connect(
    client: redis.Redis, made: WeakSet[RedisConnection], read_timeout: float | None = None
) -> RedisConnection:
    """Return a new connection, and add it to those that were made."""
    link = connection.make_connection(client, read_timeout)
    made.add(link)
    return link


def _wait_seconds(client: redis.Redis) -> float:
    """Return how long WAIT may take, so that its reply comes before the time-out of a command."""
    timeout: float | None = client.connection_pool.connection_kwargs.get("socket_timeout")
    return min(WAIT_SECONDS, timeout / 2) if timeout else WAIT_SECONDS


def is_unknown_script(reply: Reply) -> bool:
    """Return whether the reply is that of fakeredis, which does not know the first line of PING."""
    return "error loading code" in str(reply)
