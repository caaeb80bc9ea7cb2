"""One schedule: a run that changes at random, its followers, and what their records miss."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, fields

import redis.asyncio

from tests.schedules.contract import Contract
from tests.schedules.followers import Follower, MergedFollower, Way
from tests.schedules.history import History
from tests.schedules.operations import choose
from tests.schedules.record import Control, Delivered, Opened, Selection
from tests.schedules.writer import Writer

# How many other runs a follower follows on the same stream. With 20 their events come in batches.
OTHERS = (0, 0, 2, 20)

SELECTIONS = (Selection(), Selection(), Selection("tool"))

# A gateway looks at a silent log every 5 seconds. On a busy machine it may take longer.
SETTLE_SECONDS = 45.0
POLL_SECONDS = 0.05

# Longer than a schedule can take.
MAX_SECONDS = 180.0

NOTICES = ("gap", "reset")


@dataclass(frozen=True)
class Miss:
    """What is wrong with one record, and the story that shows it."""

    what: str
    story: str

    @property
    def kind(self) -> str:
        return self.what.partition(":")[0]


@dataclass
class Outcome:
    """The figures of some schedules."""

    schedules: int = 0
    changes: int = 0
    streams: int = 0
    delivered: int = 0
    notices: int = 0
    misses: list[Miss] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def add_run(self, title: str, history: History, contracts: Sequence[Contract]) -> None:
        """Add the figures of one run, and a miss for each record that has some."""
        self.schedules += 1
        self.changes += len(history.states) - 1
        for contract in contracts:
            items = contract.record.items
            self.streams += sum(isinstance(item, Opened) for item in items)
            self.delivered += sum(isinstance(item, Delivered) for item in items)
            self.notices += sum(isinstance(i, Control) and i.action in NOTICES for i in items)
            if contract.misses:
                what = contract.misses[0][1]
                self.misses.append(Miss(what, tell(title, history, contract)))


async def play(name: str, seed: str, ways: Sequence[Way], client: redis.asyncio.Redis) -> Outcome:
    """Play the schedule of a seed on the run `name`. A seed always makes the same changes."""
    dice = random.Random(seed)
    writer = Writer(name, ways, client, random.Random(dice.random()))
    followers = [
        make_follower(f"follower {each}", name, ways, dice) for each in range(dice.randint(2, 4))
    ]
    try:
        async with asyncio.timeout(MAX_SECONDS), following() as join:
            await _change(writer, followers, join, dice)
            contracts = [Contract(writer.history, follower.record) for follower in followers]
            await settle(contracts, quiet=dice.choice((0, 0.1, 0.4)))
        await writer.close()
    finally:
        writer.hang_up()
    for contract in contracts:
        contract.finish()
    outcome = Outcome()
    outcome.add_run(f"{name} of seed {seed}", writer.history, contracts)
    return outcome


def make_follower(name: str, run: str, ways: Sequence[Way], dice: random.Random) -> Follower:
    """Return a follower of the run alone, or of the run with a few or with many others."""
    others = dice.choice(OTHERS)
    options = ways, dice.random(), dice.choice(SELECTIONS)
    if not others:
        return Follower(name, run, *options)
    return MergedFollower(f"{name} of {others + 1} runs", run, others, *options)


@contextlib.asynccontextmanager
async def following() -> AsyncIterator[Callable[[Follower], None]]:
    """Yield a function that lets a follower join. All of them leave at the end."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield lambda follower: tasks.append(asyncio.create_task(follower.follow()))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _change(
    writer: Writer,
    followers: Sequence[Follower],
    join: Callable[[Follower], None],
    dice: random.Random,
) -> None:
    steps = dice.randint(4, 12)
    joining = [(dice.randrange(steps), follower) for follower in followers]
    for step in range(steps):
        for at, follower in joining:
            if at == step:
                join(follower)
                await asyncio.sleep(dice.choice((0, 0, 0.02)))
        await choose(dice)(writer, dice)
        await asyncio.sleep(dice.choice((0, 0, 0, 0, 0.01, 0.03, 0.1, 0.3)))
    if dice.random() < 0.8:
        await writer.post()
    for follower in followers:
        follower.quiet = True


async def settle(
    contracts: Sequence[Contract], quiet: float = 0.0, seconds: float = SETTLE_SECONDS
) -> None:
    """Wait until every client has all that is due to it, at most for some seconds.

    Then let `quiet` seconds pass, so that a double is seen. Something may become due in them: a
    gateway that has not noticed yet that a log is gone still gives its position there to a client
    that was sent nothing of it, which then is due a reset. So wait for that too.
    """
    until = time.monotonic() + seconds
    await _until_settled(contracts, until)
    await asyncio.sleep(quiet)
    await _until_settled(contracts, until + quiet)


async def _until_settled(contracts: Sequence[Contract], until: float) -> None:
    while not all(contract.settled() for contract in contracts) and time.monotonic() < until:
        await asyncio.sleep(POLL_SECONDS)


def tell(title: str, history: History, contract: Contract) -> str:
    """Return the changes of a run and the items of one record, in the order of their times."""
    lines = list(history.story())
    for index, (at, item) in enumerate(contract.record.story()):
        wrong = [f"   <-- {what}" for place, what in contract.misses if place == index]
        lines.append((at, "".join([item, *wrong])))
    lines.sort(key=lambda line: line[0])
    told = [f"  {at - lines[0][0]:7.3f}  {line}" for at, line in _abridged(lines)]
    head = f"{title}, {contract.record.name}, {contract.record.selection}: {contract.misses[0][1]}"
    return "\n".join([head, *told])


def _abridged(lines: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the lines without those in the middle of a long row of events."""
    kept = []
    for index, line in enumerate(lines):
        around = lines[max(0, index - 2) : index + 3]
        if len(around) == 5 and all(
            text.startswith("    event") and "<--" not in text for _, text in around
        ):
            continue
        kept.append(line)
    return kept
