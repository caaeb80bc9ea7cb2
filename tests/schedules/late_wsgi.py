"""The gateway with readers that are far behind the log."""

import time

from app import create_app
from app.streaming.feeds import tail_reader

LAG_SECONDS = 0.25


class LongRests:
    """Rests of readers that lag."""

    def rest(self, began: float) -> None:
        time.sleep(LAG_SECONDS - began % LAG_SECONDS)


vars(tail_reader)["Pace"] = LongRests
app = create_app()
