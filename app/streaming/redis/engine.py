"""The engine: the Redis that has all logs, one server or a cluster, made from its URL."""

from collections.abc import Callable
from typing import Any, TypeAlias

import redis

from ..errors import InvalidInput
from .cluster.cluster import Cluster
from .cluster.cluster_url import is_cluster_url, parse_cluster_url
from .cluster.slot_map import Address
from .redis_url import check_settings, explained, make_client, make_pool
from .server import Server

# After so long without an answer, another node is asked where the slots are.
NODE_ANSWERS_SECONDS = 1.0

Engine: TypeAlias = Server | Cluster

# How many connections a worker's pool has to each node of a cluster. With those outside the pools
# (see docs/redis.md) there are at most 16, and the two of a reader.
NODE_POOL_SIZE = 12


def make_engine(url: str, ack_replicas: int = 0) -> Engine:
    """Return the Redis at a URL; connects nowhere yet. For `ack_replicas` see `Server`.

    The URL of a cluster, `redis+cluster://host:port,host:port`, names some of its nodes. For the
    others see `make_client`. Raises InvalidInput for a URL that cannot be used.
    """
    if not is_cluster_url(url):
        return Server(make_client(url), ack_replicas)
    try:
        addresses, settings = parse_cluster_url(url)
        check_settings(make_pool({**settings, "host": "host", "port": 1}))
    except (ValueError, TypeError, redis.RedisError) as error:
        raise InvalidInput("REDIS_URL", explained(url, error)) from None
    return Cluster(addresses, _maker(settings, ack_replicas), ack_replicas)


def _maker(settings: dict[str, Any], ack_replicas: int) -> Callable[[Address], Server]:
    def make_server(address: Address) -> Server:
        host, port = address
        pool = make_pool({**settings, "host": host, "port": port}, NODE_POOL_SIZE)
        client = redis.Redis(connection_pool=pool)
        return Server(client, ack_replicas, NODE_ANSWERS_SECONDS, in_cluster=True)

    return make_server
