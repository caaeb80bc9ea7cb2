"""Patterns: one run at a time, and many."""

import pytest

from app.auth.grants import Patterns

RUNS = ["a", "ab", "acme.1", "acme.", "acme", "other", "*"]


@pytest.mark.parametrize(
    ("patterns", "matched"),
    [
        ((), []),
        (("*",), RUNS),
        (("a",), ["a"]),
        (("acme.*",), ["acme.1", "acme."]),
        (("ab", "acme.1", "o*"), ["ab", "acme.1", "other"]),
    ],
)
def test_a_matcher_matches_what_the_patterns_do(patterns, matched):
    made = Patterns(patterns)
    assert [run for run in RUNS if made.match(run)] == matched
    assert list(filter(made.matcher(), RUNS)) == matched
