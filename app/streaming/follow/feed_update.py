"""How a reader updates a feed from its log: new entries, and what an XREAD does not report."""

import logging
import math
import time

from ..errors import StoreUnavailable
from ..event_store import EventStore
from ..log.log_state import LogState
from ..wire.frame import Frame
from ..wire.frame_batch import FrameBatch
from .feed import Feed, Position

# The shortest time between two checks, for a lease that is about to run out.
MIN_CHECK_SECONDS = 0.25

log = logging.getLogger("tailrace.reader")


def publish(
    store: EventStore, feed: Feed, position: Position, frames: list[Frame], truncated: bool
) -> bool:
    """Publish the frames that were read from a position; `truncated` if more may follow.

    If entries were trimmed or deleted before they were read, a gap notice comes first. Another
    log resets the feed, and nothing is published. Returns whether the reader must check the log
    at once.
    """
    notices, added, sequence = [], feed.added, feed.sequence
    if feed.position is not position:
        return False  # the feed moved between readers, and the other one has published this
    last = frames[-1]
    if last.sequence != sequence + len(frames):
        # Entries are missing, or it is another log, or others than Tailrace wrote to it, which
        # is fine.
        state = store.state(feed.run_id)
        continuity = state.continuity(position.id, added + len(frames))
        if continuity == "reset" or store.is_missing(feed.run_id, position.id):
            feed.reset(position.epoch)
            return False
        if continuity == "gap":
            data, cursor = state.control_data(str(position.id)), frames[0].cursor.before()
            notices = [Frame.control(feed.run_id, "gap", data, cursor=cursor)]
    batch = FrameBatch(position.id, notices + frames)
    last_sequence = sequence + len(frames) if last.sequence is None else last.sequence
    feed.publish(position, batch, last_sequence, ended=last.terminal and not truncated)
    return last.terminal and truncated  # only the log tells whether the run ends there


def check_feed(feed: Feed, position: Position, added: int, state: LogState) -> bool:
    """Compare a feed with its log; return whether the feed has read the whole log.

    `position` and `added` are the feed's from before `state` was read. Another log resets the
    feed. If entries were deleted before they were read, subscribers get a gap notice.
    """
    feed.note_deleted(state.deleted)
    continuity = state.continuity(position.id, added)
    if continuity == "reset":
        feed.reset(position.epoch)
        return False
    if state.end_id is not None and state.end_id > position.id:
        return False  # the next XREAD returns these entries
    last_id = position.id
    if continuity == "gap":
        last_id = state.last_id
        data = state.control_data(str(position.id))
        gap = Frame.control(feed.run_id, "gap", data, cursor=last_id)
        batch = FrameBatch(position.id, [gap])
        feed.publish(position, batch, state.last_sequence, state.ended)
    feed.settle(last_id, state.last_sequence, state.ended)
    feed.forget()
    return True


def watch_lease(store: EventStore, feed: Feed, state: LogState, connected_at: float) -> float:
    """End a run that was silent for its whole lease, if the reader has watched all of it.

    `connected_at` is since when the reader is connected without a break. Returns the monotonic
    time at which the lease needs the next check, infinity for none. The feed must have read the
    whole log.
    """
    if state.lease_seconds is None or state.end_id is None or state.ended:
        return math.inf
    silent_since = max(feed.changed_at, connected_at, store.last_refusal)
    due = silent_since + state.lease_seconds
    now = time.monotonic()
    if now < due:
        return max(due, now + MIN_CHECK_SECONDS)
    try:
        store.mark_lost(feed.run_id, state.end_id, watched=True)
    except StoreUnavailable as error:  # the other feeds go on
        log.warning("run %s cannot be ended now: %s", feed.run_id, error)
    return math.inf
