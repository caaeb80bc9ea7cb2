"""Routing: each command goes to the node that has its key, and follows the slots that move."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from ...errors import StoreUnavailable, StreamingError, TimedOut, copy_of
from ...reentrancy import one_call_per_thread
from ..connection import Argument, Command, Loading, Reply
from ..scripts import Connection, derives_keys
from ..server import Server
from .silent_nodes import NotSent, SilentNodes

# So often a command follows redirections, one after the other.
MAX_REDIRECTIONS = 8

# While a slot moves, its keys are on two nodes, and a script that needs keys of both must wait. The
# move of one slot is a matter of milliseconds if it has few keys.
MAX_WAIT_SECONDS = 2.0
PAUSE_SECONDS = 0.02

log = logging.getLogger("tailrace.cluster")


class Nodes(Protocol):
    """What routing needs of a cluster."""

    def known_server_of(self, key: str) -> Server | None: ...

    def moved(self, slot: int, host: str, port: int, by: Server) -> Server: ...

    def node_at(self, host: str, port: int, by: Server) -> Server: ...

    def refresh_after(self, seen: int) -> None: ...

    def read_soon(self) -> None: ...

    @property
    def silent(self) -> SilentNodes: ...

    @property
    def refreshes(self) -> int: ...


class _Call:
    """One command on its way."""

    __slots__ = ("asking", "asks_in_vain", "command", "reply", "server")

    def __init__(self, command: Command):
        self.command = command
        self.reply: Reply = None
        self.server: Server | None = None
        self.asking = False
        self.asks_in_vain = False  # the node that its slot is on its way to did not answer once


class Routed:
    """Sends commands to the nodes of a cluster that have their keys.

    A command has one key, or several in one slot. `connection_of` returns the connection of a
    node to use.
    """

    def __init__(self, cluster: Nodes, connection_of: Callable[[Server], Connection]):
        self._cluster = cluster
        self._connection_of = connection_of

    def call(self, *command: Argument) -> Reply:
        """Send one command and return its raw reply, an error reply as a value.

        Raises StoreUnavailable.
        """
        [reply] = self._carry_out([_Call(command)])
        if isinstance(reply, StreamingError):
            raise reply
        return reply

    def call_all(self, *commands: Command) -> list[Reply]:
        """Send commands together and return their raw replies.

        A node that fails is no matter of the others: its commands have a StoreUnavailable as
        their reply. One is raised only if no command has another reply; its `stored` is None if
        nobody knows of one of the commands.
        """
        replies = self._carry_out([_Call(command) for command in commands])
        errors = [reply for reply in replies if isinstance(reply, StoreUnavailable)]
        if errors and len(errors) == len(replies):
            raise next((each for each in errors if each.stored is None), errors[0])
        return replies

    def call_each(self, *commands: Command) -> list[Reply]:
        """Do what `call_all` does, but raise only what is the error of every command."""
        replies = self._carry_out([_Call(command) for command in commands])
        errors = [reply for reply in replies if isinstance(reply, StoreUnavailable)]
        alike = {(type(each), str(each), each.stored) for each in errors}
        if len(errors) == len(replies) and len(alike) == 1:
            raise errors[0]
        return replies

    def _carry_out(self, calls: Sequence[_Call]) -> list[Reply]:
        """Return the replies of some calls. Raises ReentrantCall before any of them is sent."""
        one_call_per_thread.check()
        replies = self._replies(calls)
        for reply in replies:
            if isinstance(reply, StreamingError) and not isinstance(reply, StoreUnavailable):
                raise copy_of(reply)
        return replies

    def _replies(self, calls: Sequence[_Call]) -> list[Reply]:
        left, until = list(calls), time.monotonic() + MAX_WAIT_SECONDS
        redirections, may_refresh = 0, True
        while left:
            seen = self._cluster.refreshes
            self._send(left)
            if any(map(_may_lack_slots, left)):
                self._cluster.read_soon()
            # Once at most: the replies of the nodes that are well wait for it.
            if may_refresh and any(map(_lacks_node, left)):
                may_refresh = False
                self._refresh(seen, left)
            left = [each for each in left if self._must_go_on(each)]
            waits = [each for each in left if isinstance(each.reply, TryAgainError)]
            if waits and time.monotonic() > until:
                left = [each for each in left if each not in waits]
            elif waits:
                time.sleep(PAUSE_SECONDS)
            redirections += len(left) > len(waits)
            if redirections > MAX_REDIRECTIONS:
                break
        return [each.reply for each in calls]

    def _must_go_on(self, call: _Call) -> bool:
        """Return whether a call is to be sent again, and decide where.

        It certainly was not carried out then.
        """
        reply, by, was_asking = call.reply, call.server, call.asking
        if by is not None and not isinstance(reply, Exception):
            return False
        call.asking = False
        if by is not None and isinstance(reply, MovedError):
            call.server = self._cluster.moved(reply.slot_id, reply.host, reply.port, by)
            return True
        if by is not None and isinstance(reply, AskError):
            call.server, call.asking = self._cluster.node_at(reply.host, reply.port, by), True
            return True
        if by is not None and was_asking and isinstance(reply, StoreUnavailable):
            return self._asks_again(call, by)
        if isinstance(reply, TryAgainError):
            # If it was asking, the source has none of its keys. What is missing here too is
            # nowhere, or arrives in a moment.
            call.asking = was_asking
            if was_asking and derives_keys(call.command):
                call.command = with_one_key(call.command)
            elif not was_asking:
                call.server = None
            return True
        if _lacks_node(call):
            server = self._cluster.known_server_of(key_of(call.command))
            if server is not None and server is not by:
                call.server = server
                return True
        return False

    def _asks_again(self, call: _Call, by: Server) -> bool:
        """Return whether a call whose slot is on its way to a node that fails goes back once.

        The node that it came from may know by now where the slot is.
        """
        if call.reply.stored is not False:
            return False
        slot = key_slot(key_of(call.command).encode())
        reason = f"the slot {slot} is on its way to {by.name}, which does not answer"
        call.reply = StoreUnavailable(reason, stored=False)
        if call.asks_in_vain:
            return False
        call.asks_in_vain = True
        call.server = self._cluster.known_server_of(key_of(call.command))
        return call.server is not None and call.server is not by

    def _refresh(self, seen: int, calls: Sequence[_Call]) -> None:
        """Read the map. If nobody tells it, the calls keep the replies that they have."""
        try:
            self._cluster.refresh_after(seen)
        except StreamingError as error:
            for call in calls:
                if call.server is None:
                    call.reply = copy_of(error)

    def _send(self, calls: Sequence[_Call]) -> None:
        groups: defaultdict[Server, list[_Call]] = defaultdict(list)
        for call in calls:
            if call.server is None:
                call.server = self._cluster.known_server_of(key_of(call.command))
            if call.server is None:
                slot = key_slot(key_of(call.command).encode())
                reason = f"no node of the cluster has the slot {slot}"
                call.reply = StoreUnavailable(reason, stored=False)
            else:
                groups[call.server].append(call)
        if not groups:
            return
        first, *others = groups.items()
        threads = [threading.Thread(target=self._exchange, args=each) for each in others]
        for thread in threads:
            thread.start()
        self._exchange(*first)
        for thread in threads:
            thread.join()

    def _exchange(self, server: Server, calls: Sequence[_Call]) -> None:
        silence = self._cluster.silent.error_of(server)
        if silence is not None:
            for call in calls:
                call.reply = copy_of(silence)
            return
        commands: list[Command] = []
        for call in calls:
            if call.asking:
                commands.append(("ASKING",))
            commands.append(call.command)
        try:
            replies = iter(self._connection_of(server).call_all(*commands))
        except StoreUnavailable as error:
            if isinstance(error, TimedOut):
                self._cluster.silent.add(server, error)
            for call in calls:
                call.reply = copy_of(error)
            return
        except StreamingError as error:  # a signal handler interrupted a call
            for call in calls:
                call.reply = error
            return
        except Exception as error:  # this may be a thread of its own, where nobody would see it
            log.exception("unexpected error at the node %s", server.name)
            for call in calls:
                call.reply = StoreUnavailable(f"unexpected error: {error}", stored=None)
            return
        for call in calls:
            asked = next(replies) if call.asking else None
            call.reply = next(replies)
            if isinstance(asked, Exception) and isinstance(call.reply, MovedError):
                call.reply = asked  # this user may not ask; that leads back to where it came from


def _lacks_node(call: _Call) -> bool:
    """Return whether a call was not carried out, and another node may have its slot by now.

    A call for a silent node does not wait for the map: another thread reads it anyway.
    """
    reply = call.reply
    not_sent = isinstance(reply, StoreUnavailable) and reply.stored is False
    return (not_sent and not isinstance(reply, NotSent)) or isinstance(reply, ClusterDownError)


def _may_lack_slots(call: _Call) -> bool:
    """Return whether the node of a call may have its slot no more, and cannot say so itself."""
    reply = call.reply
    if not isinstance(reply, Exception):
        return False
    is_unknown = isinstance(reply, StoreUnavailable) and reply.stored is None
    return is_unknown or isinstance(reply, NotSent | Loading)


def with_one_key(command: Command) -> Command:
    """Return the command that runs a script with its first key alone, see `derives_keys`."""
    verb, script, count, first = command[:4]
    return verb, script, 1, first, *command[3 + int(count) :]


def key_of(command: Command) -> str:
    """Return the first key of a command."""
    verb = command[0]
    if verb in ("EVALSHA", "EVAL"):
        key = command[3]
    elif verb == "XREAD":
        key = command[command.index("STREAMS") + 1]
    elif verb == "XINFO":
        key = command[2]
    else:
        key = command[1]
    assert isinstance(key, str)
    return key
