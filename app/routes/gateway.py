"""What the factory wired, for the views of this app."""

import re
from dataclasses import dataclass

from flask import Flask, current_app, request
from flask_cors import CORS

from ..server.response import Unsent
from ..settings import Settings
from ..streaming.event_store import EventStore
from ..streaming.follow.open_streams import OpenStreams
from .admission import Admission
from .ingest.loop import IngestLoop

LOCAL_ORIGINS = r"^https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$"


@dataclass(frozen=True)
class Gateway:
    """One worker's gateway."""

    settings: Settings
    store: EventStore
    streams: OpenStreams
    admission: Admission
    ingest_loop: IngestLoop
    unsent: Unsent

    def init_app(self, app: Flask) -> None:
        app.extensions["tailrace"] = self
        # Pages may read; an append from a page of another origin is not for CORS to allow.
        CORS(
            app,
            origins=[LOCAL_ORIGINS, *map(_exactly, self.settings.cors_origins)],
            methods=["GET", "HEAD"],
            allow_headers=["Accept", "Cache-Control", "Last-Event-ID"],
            max_age=600,
        )
        # Requests that no page makes have nothing to weigh.
        [weigh] = app.after_request_funcs[None]
        app.after_request_funcs[None] = [
            lambda response: weigh(response) if "Origin" in request.headers else response
        ]

    def drain(self) -> None:
        """Refuse new streams and end the open ones, spread over most of DRAIN_SECONDS."""
        self.streams.drain(0.8 * self.settings.drain_seconds)


def _exactly(origin: str) -> str:
    # What looks like a pattern is one to flask-cors.
    return origin if origin == "*" else rf"^{re.escape(origin)}$"


def gateway() -> Gateway:
    """The gateway of the current app."""
    return current_app.extensions["tailrace"]
