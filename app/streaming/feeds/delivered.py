"""What is counted of the batches that were sent to clients."""

import time

from ...metrics.catalog import DELIVERED_BYTES, DELIVERED_EVENTS, DELIVERY_LAG, NOTICES
from ...metrics.values import Place
from ..wire.frame_batch import Encoded

# The id of an event that is older than that, and yet comes now, is no time: another program chose
# it, or the log was restored.
MAX_LAG_SECONDS = 3600.0

_NOTICES: dict[str | None, Place] = {name: NOTICES.of(name) for name in ("gap", "reset")}


def count_sent(encoded: Encoded, size: int, sends: int, live_since_ms: int = 0) -> None:
    """Count a batch of `size` bytes that was sent to so many clients just now.

    The lag is noted if its oldest event is as new as `live_since_ms`, a Unix time: older ones
    were history for the client.
    """
    DELIVERED_EVENTS.add(encoded.events * sends)
    DELIVERED_BYTES.add(size * sends)
    if encoded.oldest_ms and encoded.oldest_ms >= live_since_ms:
        lag = time.time() - encoded.oldest_ms / 1000
        if lag < MAX_LAG_SECONDS:
            DELIVERY_LAG.observe(max(lag, 0.0), sends)
    for action in encoded.notices:
        count_notice(action, sends)


def count_notice(action: str | None, sends: int = 1) -> None:
    """Count a control event that was sent, if it is a notice."""
    if action in _NOTICES:
        _NOTICES[action].add(sends)
