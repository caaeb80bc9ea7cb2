"""Discovery: which nodes are asked for the map of the cluster, and which answer is believed."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from random import SystemRandom

from ...errors import StoreUnavailable, StreamingError, UnsupportedServer
from ..server import Server
from .slot_map import Address, SlotMap, read_map

# A node that did not answer is asked last for so long: to wait for it again holds up the others.
AVOID_SECONDS = 60.0

log = logging.getLogger("tailrace.cluster")

_dice = SystemRandom()  # the program's own random numbers stay as they are


class Discovery:
    """Asks the nodes of a cluster for its map.

    The seeds are the nodes that the URL names. `server_at` returns the node at an address.
    """

    def __init__(self, seeds: Collection[Address], server_at: Callable[[Address], Server]):
        self._seeds = seeds
        self._server_at = server_at
        self._failed: dict[Address, float] = {}  # when a node did not answer

    def read(self, known: SlotMap | None, named: Collection[Address]) -> SlotMap:
        """Return the map of the first node that takes part in a cluster that serves.

        If none does, or none knows as much as was known before, it is the newest map. `known` is
        the map that was read last. Nodes have `named` others since, which so know a newer one.

        Raises StoreUnavailable if no node answers, and UnsupportedServer if only nodes of another
        cluster do.
        """
        found: list[SlotMap] = []
        strangers: dict[Address, SlotMap] = {}
        failure: StreamingError | None = None
        for address in self._to_ask(known, named):
            try:
                told = read_map(self._server_at(address))
            except (StoreUnavailable, UnsupportedServer) as error:
                failure = failure or error
                self._failed[address] = time.monotonic()
                continue
            if known is not None and address not in named and _is_stranger(told, known):
                strangers[address] = told
                continue
            if told.is_ok and told.shards and (known is None or told.epoch >= known.epoch):
                return told
            found.append(told)
        if not found and strangers:
            found.append(self._successor(strangers))
        if not found:
            if isinstance(failure, UnsupportedServer):
                raise failure
            raise StoreUnavailable(f"no node of the cluster answers: {failure}", stored=False)
        return max(found, key=lambda each: (len(each.shards) > 0, each.epoch))

    def check(self, address: Address, known: SlotMap) -> None:
        """Raise UnsupportedServer if the node at an address is none of the known cluster's.

        Raises StoreUnavailable if it does not answer, or has joined no cluster yet: it may be new,
        or have lost its disk.
        """
        told = read_map(self._server_at(address))
        if not told.node_ids:
            raise StoreUnavailable("it knows of no slots: it has joined no cluster", stored=False)
        if not told.node_ids & known.node_ids:
            raise UnsupportedServer(_of_another_cluster(address))

    def _to_ask(self, known: SlotMap | None, named: Collection[Address]) -> Iterator[Address]:
        """Yield the nodes to ask: first those that answered, and were named last."""
        masters = known.masters() if known else []
        _dice.shuffle(masters)
        replicas = known.replicas() if known else []
        addresses = dict.fromkeys([*list(named), *masters, *replicas, *self._seeds])
        since = time.monotonic() - AVOID_SECONDS
        yield from sorted(addresses, key=lambda each: self._failed.get(each, 0.0) > since)

    def _successor(self, strangers: dict[Address, SlotMap]) -> SlotMap:
        """Return the map of nodes that are strangers, where none that is known answers any more.

        All nodes of a cluster may have been replaced since its map was read. It is the same one
        only if all nodes answer that the URL names, and know each other: where some are away, the
        known ones may come back. Raises UnsupportedServer if it is another cluster.
        """
        address, first = next(iter(strangers.items()))
        seeds = [strangers.get(each) for each in self._seeds]
        if not all(each is not None and each.node_ids & first.node_ids for each in seeds):
            raise UnsupportedServer(_of_another_cluster(address))
        log.warning("no known node of the cluster is there any more; REDIS_URL names others now")
        return max(strangers.values(), key=lambda each: (each.is_ok, each.epoch))


def _is_stranger(told: SlotMap, known: SlotMap) -> bool:
    """Return whether the node that tells a map knows none of the known nodes."""
    return bool(told.node_ids) and not told.node_ids & known.node_ids


def _of_another_cluster(address: Address) -> str:
    return f"{address[0]}:{address[1]} belongs to another cluster than the other nodes"
