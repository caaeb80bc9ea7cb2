"""Readiness of a cluster: each of its nodes is asked, and a dead one is no matter of the others."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from redis.crc import key_slot

from ..errors import StoreUnavailable, StreamingError, UnsupportedServer
from ..log.redis_keys import log_key
from ..redis.cluster.cluster import Cluster
from ..redis.cluster.slot_map import Address, SlotMap
from ..redis.connection import checked, exchange, translated_errors
from ..redis.server import Server
from ..redis.server_warnings import ServerWarning
from .server_readiness import Readiness

# A node that says nothing for so long is unavailable. Who asks for readiness does not wait longer.
PATIENCE_SECONDS = 1.0

# The channel on which a node tells which keys have changed.
CHANNEL = "__redis__:invalidate"


class ShardState(NamedTuple):
    """A node as it is now: its address, its slots, and why it cannot serve (None: it can)."""

    node: str
    slots: str
    detail: str | None


class ClusterReadiness:
    """Asks the nodes that have slots, each over a connection that nothing else uses.

    Attributes:
        shards: the states of the nodes when they were last checked.
        silent: the nodes that the URL names, and that were no use then, each with why: it did not
            answer, or has joined no cluster yet.
    """

    def __init__(self, cluster: Cluster):
        self.shards: list[ShardState] = []
        self.silent: dict[str, str] = {}
        # What is asked of the nodes that the URL names, until each has been found right.
        self._seeds: dict[Address, _Question | None] = dict.fromkeys(cluster.seeds)
        self._has_asked_seeds = False
        self._cluster = cluster
        self._nodes: dict[Server, _Node] = {}
        self._lock = threading.Lock()

    def ping(self) -> None:
        """Raise StoreUnavailable unless some node responds and accepts writes."""
        self._cluster.ping()

    def check(self, *streams: str) -> None:
        """Try out all that Tailrace needs of each node, which keeps nothing of it.

        `streams` are keys that are no run's, to which the gateway appends too.

        Raises UnsupportedServer if a node lacks something, or is of another cluster, and
        StoreUnavailable if none serves.
        """
        seeds = self._ask_seeds()
        answers = self._ask_all("check", lambda node: node.check(streams))
        self._check_seeds(seeds)
        self.shards = [
            ShardState(
                node.server.name,
                node.slots,
                self._cluster.explained(node.server, error) if error else None,
            )
            for node, error in answers
        ]
        for node, error in answers:
            if isinstance(error, UnsupportedServer):
                raise UnsupportedServer(f"{node.server.name}: {error}")
        if all(error for _, error in answers):
            first = self.shards[0]
            raise StoreUnavailable(
                f"no node of the cluster can serve: {first.node}: {first.detail}", stored=False
            )

    def warnings(self) -> list[ServerWarning]:
        """Return which settings of some nodes may lose events; each names all such nodes."""
        found: defaultdict[ServerWarning, list[str]] = defaultdict(list)
        for node, _ in self._ask_all("warnings", _Node.ask_for_warnings):
            for warning in node.warnings:
                found[warning].append(node.server.name)
        return [
            ServerWarning(code, f"{', '.join(names)}: {detail}")
            for (code, detail), names in found.items()
        ]

    def _ask_seeds(self) -> "dict[Address, _Question]":
        """Ask the nodes that the URL names whether they are of this cluster."""
        self._cluster.map()
        with self._lock:
            asked: dict[Address, _Question] = {}
            for address, question in self._seeds.items():
                asked[address] = question or _Question(partial(self._cluster.check_seed, address))
            self._seeds.update(asked)
            return asked

    def _check_seeds(self, asked: "dict[Address, _Question]") -> None:
        """Take the answers; only those to the first questions are waited for.

        Raises UnsupportedServer.
        """
        until = time.monotonic() + (0.0 if self._has_asked_seeds else PATIENCE_SECONDS)
        self._has_asked_seeds, silent = True, dict[str, str]()
        for address, question in asked.items():
            error = question.wait(until)
            with self._lock:
                if error is None:
                    self._seeds.pop(address, None)
                elif not question.is_open:  # it is asked again
                    self._seeds[address] = None
            if isinstance(error, UnsupportedServer):
                raise error
            if error is not None:
                silent[f"{address[0]}:{address[1]}"] = str(error)
        self.silent = silent

    def _ask_all(
        self, kind: str, ask: "Callable[[_Node], None]"
    ) -> "list[tuple[_Node, StreamingError | None]]":
        """Ask all nodes at once; return the error of each, None if there was none."""
        asked = [(node, node.start(kind, ask)) for node in self._current()]
        until = time.monotonic() + PATIENCE_SECONDS
        return [(node, question.wait(until)) for node, question in asked]

    def _current(self) -> "list[_Node]":
        """Return the nodes that have slots now."""
        slot_map = self._cluster.map()
        # Of this map: a node without slots has no log to try anything out with.
        servers = [self._cluster.server_at(each) for each in slot_map.masters()]
        with self._lock:
            known = self._nodes
            self._nodes = {each: known.get(each) or _Node(each) for each in servers}
            for node in self._nodes.values():
                node.take_slots(slot_map)
            return list(self._nodes.values())


class _Question:
    """A question that a thread asks a node. Several callers may wait for the answer."""

    def __init__(self, ask: Callable[[], None]):
        self._ask = ask
        self._error: StreamingError | None = StoreUnavailable(
            f"no answer within {PATIENCE_SECONDS:.0f} s"
        )
        self._thread = threading.Thread(target=self._run, name="tailrace-readiness", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether the node may still answer."""
        return self._thread.is_alive()

    def wait(self, until: float) -> StreamingError | None:
        """Wait up to a monotonic time, and return why the node cannot serve, None if it can."""
        self._thread.join(max(0.0, until - time.monotonic()))
        return self._error

    def _run(self) -> None:
        try:
            self._ask()
        except StreamingError as error:
            self._error = error
        else:
            self._error = None


class _Node:
    """A node, and what is asked of it."""

    def __init__(self, server: Server):
        self.server = server
        self.slots = ""
        self.warnings: list[ServerWarning] = []
        self._readiness: Readiness | None = None
        self._owned: frozenset[int] = frozenset()
        self._may_subscribe = False
        self._questions: dict[str, _Question] = {}

    def take_slots(self, slot_map: SlotMap) -> None:
        """Note which slots the node has now."""
        shards = [each for each in slot_map.shards if each.master == self.server.address]
        slots = ",".join(f"{each.first}-{each.last}" for each in shards)
        if slots != self.slots:
            self.slots = slots
            self._owned = frozenset(
                slot for each in shards for slot in range(each.first, each.last + 1)
            )
            self._readiness = Readiness(self.server, self._probe(), in_cluster=True)

    def start(self, kind: str, ask: "Callable[[_Node], None]") -> _Question:
        """Ask in a thread, unless the same is being asked; one that hangs is not asked again."""
        question = self._questions.get(kind)
        if question is None or not question.is_open:
            question = self._questions[kind] = _Question(partial(ask, self))
        return question

    def check(self, streams: Any) -> None:
        """Try out what is needed. Raises UnsupportedServer and StoreUnavailable."""
        assert self._readiness is not None
        own = [each for each in streams if key_slot(each.encode()) in self._owned]
        self._readiness.check(*own)
        if not self._may_subscribe:
            self._check_subscribing()

    def ask_for_warnings(self) -> None:
        """Ask for the settings. Raises StoreUnavailable."""
        assert self._readiness is not None
        self.warnings = self._readiness.warnings()

    def _check_subscribing(self) -> None:
        with translated_errors():
            link = self.server.connect()
            try:
                [reply] = exchange(link, ("SUBSCRIBE", CHANNEL))
            finally:
                link.disconnect()
        if isinstance(reply, Exception) and "permission" in str(reply):
            about = "SUBSCRIBE" if "command" in str(reply) else f"the channel {CHANNEL}"
            raise UnsupportedServer(f"Redis forbids {about} to this user")
        checked(reply)
        self._may_subscribe = True

    def _probe(self) -> str:
        """Return an id that no run can have, whose log is in a slot of this node."""
        probe, number = "~probe", 0
        while key_slot(log_key(probe).encode()) not in self._owned:
            number += 1
            probe = f"~probe-{number}"
        return probe
