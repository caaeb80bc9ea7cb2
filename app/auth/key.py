"""A key of tokens, for those who do not verify any, and so need no cryptography."""

from typing import Any, NamedTuple

MIN_SECRET_BYTES = 32


class Key(NamedTuple):
    """A key, its id (`kid`) if it has one, and the algorithms that it may be used for."""

    id: str | None
    algorithms: tuple[str, ...]
    key: Any

    def __repr__(self) -> str:
        """Leave out the key, which may be a secret."""
        return f"Key(id={self.id!r}, algorithms={self.algorithms!r})"
