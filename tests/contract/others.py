"""What other programs do to a run in Redis, and to the model with it."""

import time
from collections.abc import Sequence

from tests.contract.events import Foreign
from tests.contract.model import Entry, Id, Log, Run
from tests.contract.world import World, keys_of


def xadd(world: World, run: Run, foreign: Foreign, event_id: str) -> None:
    """Add an entry with an id as XADD takes it, unless the log takes none."""
    if 0 in run.foreign or run.is_full:
        return
    given = Id.of(world.client.xadd(keys_of(run)[0], foreign.fields, id=event_id))
    log = run.log = run.log or Log()
    names = foreign.category, foreign.action
    values = foreign.data, foreign.source, foreign.sequence, foreign.timestamp, foreign.lease
    log.add(Entry(given, names, *values, foreign=True))
    run.seen.append(given)


def xdel(world: World, run: Run, which: Sequence[int]) -> None:
    """Delete entries by their positions in the log."""
    if run.log is not None and run.log.entries:
        entries = run.log.entries
        for event_id in {entries[at % len(entries)].id for at in which}:
            world.client.xdel(keys_of(run)[0], str(event_id))
            run.log.delete(event_id)


def xtrim(world: World, run: Run, length: int) -> None:
    if run.log is not None:
        world.client.xtrim(keys_of(run)[0], maxlen=length, approximate=False)
        run.log.trim(length)


def xsetid(world: World, run: Run, further: int) -> None:
    """Move the last id."""
    if run.log is not None and run.log.entries and not run.is_full:
        log = run.log
        log.last_id = Id(log.last_id.ms + further, log.last_id.n)
        log.odd = True
        world.client.execute_command("XSETID", keys_of(run)[0], str(log.last_id))


def expire(world: World, run: Run, ttl: int | None) -> None:
    """Set the TTL of the log, or take it away. With 0 the log is gone."""
    if run.log is None:
        return
    key = keys_of(run)[0]
    if ttl is None:
        world.client.persist(key)
        run.log.expires_at = None
    else:
        world.client.expire(key, ttl)
        run.log.expires_at = time.time() + ttl
        if ttl == 0:
            run.log = None


def replace(world: World, run: Run, which: int, with_string: bool) -> None:
    """Put a string in the place of one of the run's keys, or delete what is there."""
    key = keys_of(run)[which]
    run.foreign.discard(which)
    if with_string:
        world.client.set(key, "a string")
        run.foreign.add(which)
    else:
        world.client.delete(key)
    if which == 0:
        run.log = None
    elif which == 1:
        run.keys.clear()
