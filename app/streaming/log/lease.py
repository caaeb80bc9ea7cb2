"""Leases: how long a run may be silent before it is lost.

A producer that could not write, because Redis was out of reach or refused writes, must have its
whole lease from then on. So a lease counts from the last moment at which this process could not
write either.
"""

import time

from ..errors import StoreUnavailable
from .log_state import LogState
from .shared_connection import SharedConnection
from .writer import LogWriter


class Leases:
    """The leases of the runs on one server, as far as this process can judge them."""

    def __init__(self, shared: SharedConnection, writer: LogWriter):
        self._shared = shared
        self._writer = writer

    @property
    def last_refusal(self) -> float:
        """When Redis last refused or lost a write of this process: a monotonic time, or -inf."""
        return self._writer.last_refusal

    def expires_at(self, lease_seconds: int, *since: float) -> float:
        """Return the monotonic time before which no run with this lease may be ended.

        Each of `since` is a monotonic time, such as that of the connection over which the caller
        knows of the run, and the lease counts from the latest.
        """
        return max(self.last_refusal, *since) + lease_seconds

    def end_if_lost(self, run_id: str, state: LogState) -> bool:
        """End a run whose lease has expired, and return whether that has been done now."""
        if state.end_id is None or not self._has_expired(state):
            return False
        try:
            return self._writer.mark_lost(run_id, state.end_id, watched=False)
        except StoreUnavailable:  # memory is full, or this is a replica: reading still works
            return False

    def _has_expired(self, state: LogState) -> bool:
        """Judge by the clock of this machine; the script judges again, by that of Redis."""
        lease = state.lease_seconds
        if lease is None or state.ended or time.time() * 1000 < state.last_id.ms + lease * 1000:
            return False
        return time.monotonic() >= self.expires_at(lease, self._shared.connected_since)
