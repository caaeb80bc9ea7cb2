"""The random changes of a schedule: appends, deletions and recreations, in every way."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.schedules.writer import Writer

Operation = Callable[[Writer, random.Random], Awaitable[None]]


async def one_event(writer: Writer, dice: random.Random) -> None:
    await writer.post()


async def some_events(writer: Writer, dice: random.Random) -> None:
    for _ in range(dice.randint(2, 5)):
        await writer.post()


async def batch(writer: Writer, dice: random.Random) -> None:
    await writer.post(dice.randint(2, 30))


async def burst(writer: Writer, dice: random.Random) -> None:
    """Append more than a gateway keeps of a live run."""
    await writer.post(dice.randint(100, 400), padding=1000)


async def end(writer: Writer, dice: random.Random) -> None:
    await writer.post(action="completed")


async def written_by_others(writer: Writer, dice: random.Random) -> None:
    await writer.xadd(dice.randint(1, 3), low_ids=dice.random() < 0.5)


async def never_seen(writer: Writer, dice: random.Random) -> None:
    """Add entries of which one is deleted before anybody can read it."""
    count = dice.randint(1, 4)
    await writer.xadd(count, xdel=[dice.randrange(count)])


async def fresh_deleted(writer: Writer, dice: random.Random) -> None:
    """Delete an entry that has just been appended, and append more."""
    await writer.post(dice.randint(1, 3))
    await writer.xdel([dice.choice(writer.history.retained[-2:])])
    if dice.random() < 0.5:
        await writer.post()


async def some_deleted(writer: Writer, dice: random.Random) -> None:
    if entries := writer.history.retained:
        place = dice.choice((0, -1, dice.randrange(len(entries)), dice.randrange(len(entries))))
        await writer.xdel([entries[place]])


async def all_deleted(writer: Writer, dice: random.Random) -> None:
    if entries := writer.history.retained:
        await writer.xdel(entries[:100])


async def trimmed(writer: Writer, dice: random.Random) -> None:
    await writer.xtrim(dice.choice((0, 1, 1, 2, 5)))


async def log_deleted(writer: Writer, dice: random.Random) -> None:
    await dice.choice((writer.remove, writer.delete))()


async def replaced(writer: Writer, dice: random.Random) -> None:
    """Delete the log and begin it again at once."""
    await dice.choice((writer.remove, writer.delete))()
    for _ in range(dice.randint(1, 3)):
        await writer.post()


async def replaced_by_others(writer: Writer, dice: random.Random) -> None:
    """Put another log in the place of this one, in one moment."""
    await writer.xadd(dice.randint(1, 4), anew=True, low_ids=dice.random() < 0.5)


async def expired(writer: Writer, dice: random.Random) -> None:
    if writer.history.log:
        await writer.expire(dice.choice((1, 5, 30)))


async def of_another_type(writer: Writer, dice: random.Random) -> None:
    await writer.overwrite()
    await asyncio.sleep(dice.choice((0, 0.05, 0.5)))
    await writer.remove()
    if dice.random() < 0.7:
        await writer.post()


async def away(writer: Writer, dice: random.Random) -> None:
    """Take the log away for a moment, in which the run may have a value or another log."""
    if not writer.history.log:
        return
    await writer.rename_away()
    match dice.randrange(3):
        case 0:
            await writer.overwrite()
        case 1:
            await writer.xadd(2, low_ids=dice.random() < 0.5)
    await asyncio.sleep(dice.choice((0, 0.05, 0.5)))
    await writer.rename_back()


WEIGHTS: dict[Operation, int] = {
    one_event: 12,
    some_events: 12,
    batch: 6,
    burst: 1,
    end: 3,
    written_by_others: 8,
    never_seen: 6,
    fresh_deleted: 8,
    some_deleted: 8,
    all_deleted: 2,
    trimmed: 7,
    log_deleted: 5,
    replaced: 7,
    replaced_by_others: 5,
    expired: 3,
    of_another_type: 3,
    away: 3,
}


def choose(dice: random.Random) -> Operation:
    [operation] = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
    return operation
