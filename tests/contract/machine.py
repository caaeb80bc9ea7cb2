"""The state machine: which operations come, in which order and with which arguments."""

import functools
import time
from collections.abc import Callable
from typing import Any, ClassVar

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.contract import producers, readers
from tests.contract.bad_requests import BAD_REQUESTS, send
from tests.contract.events import CONTENTS, ENDINGS, FOREIGN, SHORT_LEASE, STARTED, Style
from tests.contract.model import ZERO, Id, Run
from tests.contract.producers import BAD_LINES, BLANK
from tests.contract.readers import Cursors, Filter
from tests.contract.world import World

HOUR = 3600
runs = st.sampled_from([0, 0, 0, 1])
contents = st.sampled_from(CONTENTS * 3 + ENDINGS + [STARTED] * 3)
styles = st.builds(Style, *[st.booleans()] * 5)
few = st.integers(0, 7)
expected_sequences = st.none() | st.sampled_from(["right", "right", "one more", "one less", "last"])
leases = st.sampled_from([None, None, None, 100_000, 31_536_000_000])
names = st.lists(st.sampled_from(["llm", "tool", "lifecycle", "gateway", "", "x"]), max_size=2)
actions = st.lists(st.sampled_from(["stream", "called", "started", "", "x"]), max_size=2)
filters = st.just(Filter()) | st.builds(Filter, names.map(tuple), actions.map(tuple))

# An id by its number among those that were seen, counted from the newest, and a step beside it.
ids = st.tuples(st.integers(0, 20), st.sampled_from([0, 0, 0, 0, -1, 1]))
cursors = ids | st.sampled_from(["earliest", "latest", "0-0", "1-1", f"{2**64 - 1}-{2**64 - 1}"])
# What counts for nothing, since a better cursor is beside it, may be nonsense.
losers = st.sampled_from(["", "nonsense", "latest"])


class ContractMachine(RuleBasedStateMachine):
    """Producers, readers and others on two runs, compared with the model after each step."""

    port: ClassVar[int]
    client: ClassVar[redis.Redis]
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.port, self.client)

    def teardown(self) -> None:
        self.world.close()

    def run(self, number: int) -> Run:
        type(self).steps += 1
        return self.world.runs[number]

    def check_redis(self) -> None:
        for run in self.world.runs:
            self.world.check_redis(run)

    # Producers

    @rule(
        number=runs,
        events=st.lists(st.tuples(contents, styles), min_size=1, max_size=4),
        as_batch=st.booleans(),
        key=st.sampled_from([None, None, "k", "a,b", 'x"y;z']),
        key_in_quotes=st.booleans(),
        expected=expected_sequences,
        lease=leases,
    )
    def append(
        self,
        number: int,
        events: list[tuple[Any, Style]],
        as_batch: bool,
        key: str | None,
        key_in_quotes: bool,
        expected: str | None,
        lease: int | None,
    ) -> None:
        run = self.run(number)
        given = events if as_batch else events[:1]
        producers.append(
            self.world,
            run,
            [content for content, _ in given],
            [style for _, style in given],
            as_batch=as_batch,
            key=key,
            key_in_quotes=key_in_quotes or key == "a,b",
            expected=expected_sequence(run, expected),
            lease=lease,
        )
        self.check_redis()

    @rule(
        number=runs,
        lines=st.lists(contents | contents | st.sampled_from([BLANK, *BAD_LINES]), max_size=6),
        style=styles,
        expected=expected_sequences,
        pieces=st.sampled_from([0, 1, 7]),
        ends_with_break=st.booleans(),
    )
    def append_lines(
        self, number: int, lines: list[Any], expected: str | None, **options: Any
    ) -> None:
        run = self.run(number)
        sequence = expected_sequence(run, expected)
        producers.append_lines(self.world, run, lines, expected=sequence, **options)
        self.check_redis()

    @rule(number=runs)
    def delete(self, number: int) -> None:
        producers.delete(self.world, self.run(number))
        self.check_redis()

    @rule(number=runs, bad=st.sampled_from(BAD_REQUESTS))
    def bad_request(self, number: int, bad: Any) -> None:
        send(self.world, self.run(number), bad)
        self.check_redis()

    # Others

    @rule(
        number=runs,
        foreign=st.sampled_from(FOREIGN),
        where=st.sampled_from(["now", "now", "next", "later", "far", "old"]),
    )
    def xadd(self, number: int, foreign: Any, where: str) -> None:
        run = self.run(number)
        producers.xadd(self.world, run, *entry_of_others(run, foreign, where))

    @rule(number=runs, which=st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=1, max_size=2))
    def xdel(self, number: int, which: list[int]) -> None:
        producers.xdel(self.world, self.run(number), which)

    @rule(number=runs, length=few)
    def xtrim(self, number: int, length: int) -> None:
        producers.xtrim(self.world, self.run(number), length)

    @rule(number=runs, further=st.sampled_from([0, 1, 10**9]), more=st.sampled_from([0, 1, 2**40]))
    def xsetid(self, number: int, further: int, more: int) -> None:
        producers.xsetid(self.world, self.run(number), further, more)

    @rule(number=runs, ttl=st.sampled_from([None, 0, 100, 165 * HOUR, 168 * HOUR - 60, 10**7]))
    def expire(self, number: int, ttl: int | None) -> None:
        producers.expire(self.world, self.run(number), ttl)

    @rule(number=runs, which=st.sampled_from([0, 0, 1, 2]), with_string=st.booleans())
    def replace(self, number: int, which: int, with_string: bool) -> None:
        producers.replace(self.world, self.run(number), which, with_string)

    # Readers

    @rule(number=runs, method=st.sampled_from(["GET", "GET", "HEAD"]))
    def state(self, number: int, method: str) -> None:
        readers.read_state(self.world, self.run(number), method)

    @rule(
        number=runs,
        after=st.none() | ids,
        before=st.none() | ids,
        descending=st.booleans(),
        limit=st.none() | st.sampled_from([1, 2, 3, 1000]),
        filter=filters,
    )
    def page(self, number: int, after: Any, before: Any, **options: Any) -> None:
        run = self.run(number)
        bounds = {"after": after and find_id(run, after), "before": before and find_id(run, before)}
        readers.read_page(self.world, run, **bounds, **options)

    @rule(
        number=runs,
        cursor=st.none() | cursors | few,
        way=st.sampled_from(["header", "camel", "snake"]),
        loser=losers,
        filter=filters,
        typed=st.sampled_from([None, None, "true", "1", "false", "0"]),
        json_lines=st.booleans(),
        live=st.none() | contents | st.sampled_from(FOREIGN),
    )
    def follow(
        self, number: int, cursor: Any, way: str, loser: str, live: Any, **options: Any
    ) -> None:
        run = self.run(number)
        write: Callable[[], None] | None = None
        if live in FOREIGN:
            write = functools.partial(producers.xadd, self.world, run, live, "*")
        elif live is not None:
            write = functools.partial(
                producers.append, self.world, run, [live], [Style()], as_batch=False
            )
        readers.follow(
            self.world, run, find_cursors(run, cursor, way, loser), write=write, **options
        )


def expected_sequence(run: Run, which: str | None) -> int | None:
    """Return a sequence to expect, as a query may have it."""
    due = run.last_sequence + 1
    found = {"right": due, "one more": due + 1, "one less": due - 1 or None, "last": 2**53}
    return None if which is None else found[which]


def entry_of_others(run: Run, foreign: Any, where: str) -> tuple[Any, str]:
    """Return an entry and its id as XADD takes it. One with an old id has a lease that is over."""
    last = run.last_id
    if where == "old" and last < Id(10**6, 0):
        return SHORT_LEASE, str(last.following)
    if where == "old" or (where == "far" and last.ms > 10**15):
        where = "next"
    now = int(time.time() * 1000)
    steps = {"now": "*", "next": last.following, "later": Id(max(last.ms, now) + 10, 7)}
    return foreign, str({**steps, "far": Id(10**15 + last.ms, 10**14)}[where])


def find_id(run: Run, which: tuple[int, int]) -> Id:
    """Return an id that was seen, or one beside it."""
    number, step = which
    found = run.seen[-1 - number % len(run.seen)] if run.seen else ZERO
    return found if step == 0 else found.following if step > 0 else found.previous


def find_cursors(run: Run, cursor: Any, way: str, loser: str) -> Cursors:
    """Return a stream's cursors: the one that is meant, and a loser beside it."""
    if cursor is None:
        return Cursors()
    if isinstance(cursor, int):
        return Cursors(tail=cursor)
    text = cursor if isinstance(cursor, str) else str(find_id(run, cursor))
    if way == "header":
        return Cursors(header=text, camel=(loser,), snake=(loser,), tail=3)
    if way == "camel":
        return Cursors(camel=(loser, text), snake=(loser, ""), tail=3)
    return Cursors(snake=(loser, text, ""), camel=("",))
