"""What the factory wired for one worker, and how a view reaches it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app, request
from werkzeug.exceptions import ServiceUnavailable

from ..metrics.exposition import Exposition
from ..metrics.sampler import Sampler
from ..server.request_ids import request_id_of
from ..server.response import add_common_headers
from ..settings import Settings
from ..streaming.event_store import EventStore
from ..streaming.follow.open_streams import Client, OpenStream, OpenStreams
from ..streaming.runs.census import Census
from .access.access import Access
from .access.hosts import Hosts
from .admission import Admission
from .ingest.loop import IngestLoops

# This share of DRAIN_SECONDS ends the streams. The rest is for what they still have to write.
DRAIN_SHARE = 0.8

# Where the environ of a request has its span, if there are any.
SPAN = "tailrace.span"

# Of the name of a client's program, which an open stream keeps.
MAX_USER_AGENT_LENGTH = 128

_NO_PLACE = "too many streams, or the worker is about to stop"


@dataclass(frozen=True)
class Gateway:
    """The gateway of one worker."""

    settings: Settings
    store: EventStore
    streams: OpenStreams
    admission: Admission
    ingest_loops: IngestLoops
    hosts: Hosts
    access: Access
    census: Census
    sampler: Sampler
    exposition: Exposition

    def init_app(self, app: Flask) -> None:
        app.extensions["tailrace"] = self
        app.after_request(add_common_headers)
        self.hosts.init_app(app)

    def admit(self, stream: OpenStream, **fields: object) -> None:
        """Count the current request as an open stream, and log the fields.

        Raises TooMany, NotAuthenticated and ServiceUnavailable.
        """
        owner = self.access.owner_of_stream(self.streams, stream.followed)
        if not self.streams.admit(stream, client_of_request(), owner, **fields):
            raise ServiceUnavailable(_NO_PLACE)

    def check_place(self, followed: Sequence[str]) -> None:
        """Raise what `admit` would for a stream that follows some runs."""
        self.access.owner_of_stream(self.streams, followed)
        if not self.streams.has_place_for(followed):
            self.streams.count_refusal()
            raise ServiceUnavailable(_NO_PLACE)

    def drain(self) -> None:
        """Refuse new streams, and end the open ones one by one within DRAIN_SECONDS."""
        self.streams.drain(DRAIN_SHARE * self.settings.drain_seconds)


def client_of_request() -> Client:
    """Return the client of the current request."""
    user_agent = request.environ.get("HTTP_USER_AGENT", "")[:MAX_USER_AGENT_LENGTH]
    request_id, span = request_id_of(request.environ), request.environ.get(SPAN)
    return Client(request.remote_addr or "", request_id, user_agent, span)


def gateway() -> Gateway:
    """Return the gateway of the current app."""
    return cast(Gateway, current_app.extensions["tailrace"])
