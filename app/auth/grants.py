"""Grants: which actions a bearer may do, and to which runs."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, cast, get_args

Action = Literal["read", "append", "request", "delete", "admin"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

# In all grants of a bearer together.
MAX_PATTERNS = 100

# A run id, a prefix of one with an asterisk, or an asterisk.
_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,128}\*?|\*")


class Patterns:
    """Some run ids, and prefixes of run ids."""

    __slots__ = ("patterns",)

    def __init__(self, patterns: tuple[str, ...]) -> None:
        """Raises ValueError for what is no pattern."""
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern):
                raise ValueError("a pattern must be a run id, a prefix and one *, or *")
        self.patterns = patterns

    def match(self, run_id: str | None) -> bool:
        """Return whether a run matches; None stands for all runs together."""
        if run_id is None:
            return "*" in self.patterns
        for pattern in self.patterns:
            if pattern == run_id or (pattern[-1] == "*" and run_id.startswith(pattern[:-1])):
                return True
        return False

    def matcher(self) -> Callable[[str], bool]:
        """Return `match` for many runs: quick, but too large to be kept for each bearer."""
        ids = frozenset(each for each in self.patterns if not each.endswith("*"))
        prefixes = tuple(each[:-1] for each in self.patterns if each.endswith("*"))
        return lambda run_id: run_id in ids or run_id.startswith(prefixes)


class Grants:
    """What one bearer may do: some patterns for each action."""

    __slots__ = ("_patterns",)

    def __init__(self, patterns: Mapping[Action, Patterns]) -> None:
        self._patterns = dict(patterns)

    def texts(self) -> Iterator[str]:
        """Yield every pattern of every action."""
        for patterns in self._patterns.values():
            yield from patterns.patterns

    def allow(self, action: Action, run_id: str | None) -> bool:
        """Return whether the bearer may do this to a run; None stands for all runs together.

        `admin` includes every action, and `append` includes `request`.
        """
        granted = self._patterns
        return (
            _match(granted.get(action), run_id)
            or _match(granted.get("admin"), run_id)
            or (action == "request" and _match(granted.get("append"), run_id))
        )

    def patterns_of(self, action: Action) -> tuple[str, ...]:
        """Return the patterns of the runs to which the bearer may do this."""
        granted = self._patterns.get(action), self._patterns.get("admin")
        return tuple(pattern for each in granted if each for pattern in each.patterns)


NO_GRANTS = Grants({})


def _match(patterns: Patterns | None, run_id: str | None) -> bool:
    return patterns is not None and patterns.match(run_id)


def parse_claim(claim: Any) -> Grants:
    """Return the grants of a token's claim: an object of lists of patterns.

    Raises ValueError if any part of it is malformed.
    """
    if not isinstance(claim, dict):
        raise ValueError("the claim must be an object")
    given = {name: _texts(patterns) for name, patterns in claim.items()}
    if not given.keys() <= set(ACTIONS):
        raise ValueError(f"an action must be one of {', '.join(ACTIONS)}")
    if sum(map(len, given.values())) > MAX_PATTERNS:
        raise ValueError(f"there must be at most {MAX_PATTERNS} patterns")
    return Grants({cast(Action, name): Patterns(patterns) for name, patterns in given.items()})


def _texts(patterns: Any) -> tuple[str, ...]:
    if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
        raise ValueError("the patterns of an action must be a list of strings")
    return tuple(patterns)


def parse_words(actions: str, patterns: str) -> Grants:
    """Return the grants of a line of text: actions and patterns, each separated by commas."""
    names = [name for name in actions.split(",") if name]
    each = [pattern for pattern in patterns.split(",") if pattern]
    if not names or not each:
        raise ValueError("there must be an action and a pattern")
    return parse_claim(dict.fromkeys(names, each))
