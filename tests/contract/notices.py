"""Notices among the events of a stream: every hole has a gap before it, and every gap a cause."""

from collections.abc import Sequence
from itertools import pairwise

from tests.contract.model import ZERO, Entry, Id, Run


def check_notices(
    run: Run, start: str, due: Sequence[Entry], is_reset: bool, gaps: Sequence[tuple[int, int]]
) -> None:
    """Check where a stream told a reset, or gaps.

    `due` are the entries after its start. A gap is a pair: it came before the entry with one of
    these indexes. A filter drops events between which a gap may stand.
    """
    is_odd = run.log is not None and run.log.odd
    if not start[0].isdigit():
        assert is_odd or not is_reset, "a newcomer got a reset"
        assert is_odd or not gaps, "a newcomer got a gap"
        return
    cursor = Id.of(start)
    allowed = run.notices(cursor)
    if is_reset:
        assert "reset" in allowed, f"a reset, where {allowed} is due"
    else:
        assert allowed - {"reset"}, "no reset"
        assert gaps or None in allowed, f"no notice, where {allowed} is due"
    holes = _holes(run, ZERO if is_reset else cursor, due)
    for hole in holes:
        assert any(_may_tell(gap, hole, due) for gap in gaps), f"no gap for the hole before {hole}"
    # Where the event of the cursor has no number, one more gap may come before all others.
    is_unsure = not is_reset and "gap" in allowed and not _is_numbered(run, cursor)
    for gap in gaps:
        has_cause = any(_may_tell(gap, hole, due) for hole in holes)
        is_allowed = has_cause or is_odd or (is_unsure and gap[0] == 0)
        assert is_allowed, f"a gap before {gap}, and no hole"


def _holes(run: Run, cursor: Id, due: Sequence[Entry]) -> list[int]:
    """Return before which of the entries (or after the last) some are missing."""
    gone = run.log.gone if run.log else set()
    bounds = [cursor, *(entry.id for entry in due), run.last_id.following]
    return [
        index
        for index, (lower, upper) in enumerate(pairwise(bounds))
        if any(lower < event_id < upper for event_id in gone)
    ]


def _may_tell(gap: tuple[int, int], hole: int, due: Sequence[Entry]) -> bool:
    """Return whether a gap is for a hole: nothing that is numbered stands between the two."""
    lower, upper = gap
    first = hole
    while first > 0 and due[first - 1].foreign:
        first -= 1
    return lower <= hole and first <= upper


def _is_numbered(run: Run, cursor: Id) -> bool:
    return any(entry.id == cursor and not entry.foreign for entry in run.entries)
