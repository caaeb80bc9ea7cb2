"""The table of runs: relative times, and lines that fit the terminal."""

import pytest

from app.command_line.output.run_table import ago, row_of, table
from app.command_line.output.terminal import cells

NOW = 1795703286.0


def run(run_id: str, state: str = "active") -> dict:
    return {
        "run_id": run_id, "state": state, "last_sequence": 12345,
        "started_at": "2026-11-26T14:28:06.341Z",
        "last_event": {"timestamp": "2026-11-26T14:28:06.341Z",
                       "event": {"category": "lifecycle", "action": "completed"}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "now"), (59, "59 s"), (60, "1 min"), (7300, "2 h"), (90000, "1 d")]
)
def test_a_time_is_told_in_its_largest_unit(seconds, shown):
    assert ago("2026-11-26T12:00:00.000Z", 1795694400 + seconds) == shown


def test_what_is_no_time_is_a_dash():
    assert ago("-", NOW) == "-"
    assert ago("soon", NOW) == "-"


def test_a_run_without_events_of_ours_has_dashes():
    bare = {"run_id": "1", "state": "active", "last_sequence": 0, "started_at": None}
    assert row_of({**bare, "last_event": None}) == ["1", "active", "0", "-", "-", "-"]
    odd = {"timestamp": "\x1b[2J", "event": {"category": None, "action": "\x07"}}
    assert row_of({**bare, "last_event": odd})[4:] == ["\\u001b[2J", "-.\\u0007"]


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_every_line_of_a_table_fits_the_terminal(width):
    runs = [run("a"), run("b" * 128, "lost"), run("acme.build-7", "ended")]
    lines = table(runs, width, NOW)
    assert len(lines) == 4
    assert all(cells(line) <= width for line in lines)
    if width == 200:
        assert lines[2].startswith("b" * 128)
        assert all("lifecycle.completed" in line for line in lines[1:])
