"""Finds out that a line takes too long to arrive."""

import time

from ..writing.json_body import seconds_left, too_slow


class ProgressTimer:
    """Measures how long a line has been arriving while only its producer delays it."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun: float | None = None

    @property
    def too_slow(self) -> bool:
        return self.begun is not None and not seconds_left(self.begun)

    def check(self, incomplete: bool, progress: bool) -> None:
        """Note whether something is `incomplete`, and whether there was `progress`.

        Raises 408 if it took too long.
        """
        if not incomplete:
            self.begun = None
        elif progress or self.begun is None:
            self.begun = time.monotonic()
        elif self.too_slow:
            raise too_slow()
