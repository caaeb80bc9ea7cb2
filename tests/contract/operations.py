"""The operations of a story: how their arguments are drawn, and how they act on a run.

Arguments do not depend on what the run holds, so that a story can be told again with fewer
operations. An id is a number among the ids that were seen, for example.
"""

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tests.contract import others, producers, readers
from tests.contract.bad_requests import BAD_REQUESTS, send
from tests.contract.events import CONTENTS, ENDINGS, FOREIGN, SHORT_LEASE, STARTED, Style
from tests.contract.model import LAST, ZERO, Content, Id, Run
from tests.contract.producers import BAD_LINES, BLANK
from tests.contract.readers import Cursors, Filter
from tests.contract.world import World

HOUR = 3600
_CONTENTS = CONTENTS * 3 + ENDINGS + [STARTED] * 3
_CATEGORIES = ("llm", "tool", "lifecycle", "gateway", "", "x")
_ACTIONS = ("stream", "called", "started", "", "x")
_EXPECTED = (None, None, None, "right", "right", "one more", "one less", "last")

IdChoice = tuple[int, int]
"""The number of an id among those that were seen, from the newest, and a step beside it."""


class Operation(NamedTuple):
    """One step of a story: its name, the number of its run, and the other arguments."""

    name: str
    number: int
    arguments: dict[str, Any]

    def perform(self, world: World) -> None:
        _OPERATIONS[self.name].perform(world, world.runs[self.number], **self.arguments)

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.name}({'ab'[self.number]}, {arguments})"


class _Kind(NamedTuple):
    draw: Callable[[random.Random], dict[str, Any]]
    perform: Callable[..., None]
    weight: int


def names() -> list[str]:
    return list(_OPERATIONS)


def draw(dice: random.Random, among: list[str]) -> Operation:
    """Draw an operation of one of some names."""
    [name] = dice.choices(among, [_OPERATIONS[each].weight for each in among])
    return Operation(name, dice.choice([0, 0, 0, 1]), _OPERATIONS[name].draw(dice))


def _style(dice: random.Random) -> Style:
    return Style(*(dice.random() < 0.3 for _ in Style._fields))


def _id(dice: random.Random) -> IdChoice:
    return dice.choice([dice.randint(0, 3), dice.randint(0, 20)]), dice.choice([0, 0, 0, 0, -1, 1])


def _filter(dice: random.Random) -> Filter:
    if dice.random() < 0.5:
        return Filter()
    categories = tuple(dice.sample(_CATEGORIES, dice.randint(0, 2)))
    return Filter(categories, tuple(dice.sample(_ACTIONS, dice.randint(0, 2))))


# Producers


def _draw_append(dice: random.Random) -> dict[str, Any]:
    as_batch = dice.random() < 0.4
    key = dice.choice([None, None, "k", "k", "a,b", 'x"y;z'])
    return {
        "events": [
            (dice.choice(_CONTENTS), _style(dice))
            for _ in range(dice.randint(1, 4) if as_batch else 1)
        ],
        "as_batch": as_batch,
        "key": key,
        "key_in_quotes": key == "a,b" or dice.random() < 0.5,
        "expected": dice.choice(_EXPECTED),
        "lease": dice.choice([None, None, None, 100_000, 31_536_000_000]),
    }


def _append(
    world: World,
    run: Run,
    events: list[tuple[Content, Style]],
    expected: str | None,
    **options: Any,
) -> None:
    contents, styles = zip(*events, strict=True)
    _end_if_lost(world, run)
    sequence = _expected_sequence(run, expected)
    producers.append(world, run, contents, styles, expected=sequence, **options)


def _draw_lines(dice: random.Random) -> dict[str, Any]:
    return {
        "lines": [
            dice.choice([BLANK, *BAD_LINES]) if dice.random() < 0.2 else dice.choice(_CONTENTS)
            for _ in range(dice.randint(0, 6))
        ],
        "style": _style(dice),
        "expected": dice.choice(_EXPECTED),
        "pieces": dice.choice([0, 1, 7]),
        "ends_with_break": dice.random() < 0.5,
    }


def _append_lines(
    world: World, run: Run, lines: list[Any], expected: str | None, **options: Any
) -> None:
    _end_if_lost(world, run)
    sequence = _expected_sequence(run, expected)
    producers.append_lines(world, run, lines, expected=sequence, **options)


def _end_if_lost(world: World, run: Run) -> None:
    """End a run whose lease is over, since an append would give it another second."""
    if run.log is not None and run.log.lease == SHORT_LEASE.lease:
        readers.read_state(world, run, "GET")


def _expected_sequence(run: Run, which: str | None) -> int | None:
    due = run.last_sequence + 1
    found = {"right": due, "one more": due + 1, "one less": due - 1 or None, "last": 2**53}
    return None if which is None else found[which]


# Others


def _draw_xadd(dice: random.Random) -> dict[str, Any]:
    where = dice.choice(["now"] * 6 + ["next", "later", "far", "old"] * 2 + ["last"])
    return {"foreign": dice.choice(FOREIGN), "where": where}


def _xadd(world: World, run: Run, foreign: Any, where: str) -> None:
    """Add an entry. One whose id is old has a lease that is over.

    The reader of a stream that has just closed may still see that, at any time.
    """
    last = run.last_id
    if where == "old" and last < Id(10**6, 0) and not run.followed:
        others.xadd(world, run, SHORT_LEASE, str(last.following))
        return
    if where == "old" or (where == "far" and last.ms > 10**15):
        where = "next"
    soon = Id(max(last.ms, int(time.time() * 1000)) + 10, 7)
    far = Id(10**15 + last.ms, 10**14)
    ids = {"now": "*", "next": last.following, "later": soon, "far": far, "last": LAST}
    others.xadd(world, run, foreign, str(ids[where]))


def _draw_replace(dice: random.Random) -> dict[str, Any]:
    return {"which": dice.choice([0, 0, 0, 1, 2]), "with_string": dice.random() < 0.4}


# Readers


def _draw_page(dice: random.Random) -> dict[str, Any]:
    return {
        "after": _id(dice) if dice.random() < 0.5 else None,
        "before": _id(dice) if dice.random() < 0.5 else None,
        "descending": dice.random() < 0.5,
        "limit": dice.choice([None, 1, 2, 3, 1000]),
        "filter": _filter(dice),
    }


def _page(
    world: World, run: Run, after: IdChoice | None, before: IdChoice | None, **options: Any
) -> None:
    bounds = {"after": after and _find_id(run, after), "before": before and _find_id(run, before)}
    readers.read_page(world, run, **bounds, **options)


def _draw_follow(dice: random.Random) -> dict[str, Any]:
    texts = ["earliest", "latest", "0-0", "1-1", str(LAST)]
    live = dice.choice([None, dice.choice(_CONTENTS), dice.choice(FOREIGN)])
    return {
        "cursor": dice.choice(
            [None, dice.randint(0, 7), _id(dice), _id(dice), _id(dice), dice.choice(texts)]
        ),
        "way": dice.choice(["header", "camel", "snake"]),
        "loser": dice.choice(["", "nonsense", "latest"]),
        "filter": _filter(dice),
        "typed": dice.choice([None, None, "true", "1", "false", "0"]),
        "json_lines": dice.random() < 0.4,
        "live": live,
    }


def _follow(
    world: World, run: Run, cursor: Any, way: str, loser: str, live: Any, **options: Any
) -> None:
    """Follow a run, and let one event come while the stream is open.

    A run whose lease is over is ended before. It might be at any time while the stream is open.
    """
    world.check_lease(run)
    write: Callable[[], None] | None = None
    if isinstance(live, Content):
        write = partial(producers.append, world, run, [live], [Style()], as_batch=False)
    elif live is not None:
        write = partial(others.xadd, world, run, live, "*")
    cursors = _find_cursors(run, cursor, way, loser)
    readers.follow(world, run, cursors, write=write, **options)


def _find_id(run: Run, which: IdChoice) -> Id:
    number, step = which
    found = run.seen[-1 - number % len(run.seen)] if run.seen else ZERO
    if step > 0:
        return min(found.following, LAST)
    return found.previous if step else found


def _find_cursors(run: Run, cursor: Any, way: str, loser: str) -> Cursors:
    """Return a stream's cursors: the one that is meant, and a loser beside it.

    What counts for nothing, since a better cursor is beside it, may be nonsense.
    """
    if cursor is None:
        return Cursors()
    if isinstance(cursor, int):
        return Cursors(tail=cursor)
    text = cursor if isinstance(cursor, str) else str(_find_id(run, cursor))
    if way == "header":
        return Cursors(header=text, camel=(loser,), snake=(loser,), tail=3)
    if way == "camel":
        return Cursors(camel=(loser, text), snake=(loser, ""), tail=3)
    return Cursors(snake=(loser, text, ""), camel=("",))


def _choice(name: str, *values: Any) -> Callable[[random.Random], dict[str, Any]]:
    return lambda dice: {name: dice.choice(values)}


_OPERATIONS = {
    "append": _Kind(_draw_append, _append, 8),
    "append_lines": _Kind(_draw_lines, _append_lines, 3),
    "delete": _Kind(lambda dice: {}, producers.delete, 1),
    "bad_request": _Kind(_choice("bad", *BAD_REQUESTS), send, 3),
    "xadd": _Kind(_draw_xadd, _xadd, 4),
    "xdel": _Kind(_choice("which", [-1], [0], [1], [-2], [0, 1], [1, 3]), others.xdel, 2),
    "xtrim": _Kind(_choice("length", *range(6)), others.xtrim, 2),
    "xsetid": _Kind(_choice("further", 0, 1, 10**9), others.xsetid, 1),
    "expire": _Kind(
        _choice("ttl", None, 0, 100, 165 * HOUR, 168 * HOUR - 60, 10**7), others.expire, 2
    ),
    "replace": _Kind(_draw_replace, others.replace, 1),
    "state": _Kind(_choice("method", "GET", "GET", "HEAD"), readers.read_state, 4),
    "page": _Kind(_draw_page, _page, 6),
    "follow": _Kind(_draw_follow, _follow, 8),
}
