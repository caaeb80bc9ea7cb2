"""What this worker is doing: who follows what, and the feeds that they follow."""

import os
from typing import Any

from flask import Blueprint, Response
from orjson import dumps

from ..server.response import JsonResponse
from ..streaming.backoff import Turns
from ..streaming.event import timestamp_of
from ..streaming.feeds.feed import Feed
from ..streaming.follow.open_streams import Entry, OpenStream
from ..streaming.follow.subscriber import Subscriber
from ..streaming.wire.formats import Filter
from .access.access import NotPermitted, declares, is_direct
from .gateway import gateway
from .schemas import FeedsQuery, StreamsQuery

# Of each run of a stream, and of each feed, in the measure of `Turns`: the other requests get their
# turn after some 250 of them.
TURN_COST = 1024

# A stream names no more of its runs.
MAX_NAMED_RUNS = 10

blueprint = Blueprint("debug", __name__)

_streams_query, _feeds_query = StreamsQuery(), FeedsQuery()


@blueprint.get("/debug/streams")
@declares("admin")
def streams() -> Response:
    """Answer a page of the open streams of this worker, the oldest first."""
    _check_permitted()
    query = _streams_query.of_request()
    turns, entries = Turns(), []
    for each in gateway().streams.entries():
        turns.spend(TURN_COST // 8)
        if _is_asked(query, *each):
            entries.append(each)
    page, shown = entries[: query["limit"]], []
    for stream, entry in page:
        turns.spend(TURN_COST * max(1, len(stream.followed)))
        shown.append(_stream(stream, entry))
    following = page[-1][1].number if len(page) < len(entries) else None
    return _answer("streams", shown, following, len(gateway().streams))


@blueprint.get("/debug/feeds")
@declares("admin")
def feeds() -> Response:
    """Answer a page of the runs that this worker follows, by their ids."""
    _check_permitted()
    query = _feeds_query.of_request()
    everything = gateway().streams.services.readers.feeds()
    found = [each for each in everything if each[0].run_id > query["after"]]
    page = found[: query["limit"]]
    turns, shown = Turns(), []
    for feed, reader in page:
        turns.spend(TURN_COST)
        shown.append(_feed(feed, reader))
    following = page[-1][0].run_id if len(page) < len(found) else None
    return _answer("feeds", shown, following, len(everything))


def _check_permitted() -> None:
    """Raise NotPermitted without authentication, unless the client is on this machine.

    Behind a proxy, or where everybody may come, it cannot show that it may know who the others
    are.
    """
    here = gateway()
    if not here.access.is_on and (here.settings.allow_anonymous or not is_direct()):
        raise NotPermitted("without authentication, only programs on the same machine may ask this")


def _answer(name: str, shown: list[dict[str, Any]], following: object, total: int) -> Response:
    """Answer for this worker. Another connection may reach another one."""
    worker = {"pid": os.getpid(), "workers": gateway().settings.web_concurrency}
    document = {"worker": worker, name: shown, "next": following, "total": total}
    return JsonResponse(dumps(document))


def _is_asked(query: Any, stream: OpenStream, entry: Entry) -> bool:
    if entry.number <= query["after"]:
        return False
    asked = query["run"]
    return asked is None or asked == stream.run_id or asked in stream.followed


def _stream(stream: OpenStream, entry: Entry) -> dict[str, Any]:
    standing, followed = stream.standing(), stream.followed or (stream.run_id,)
    return {
        "number": entry.number,
        "kind": stream.kind,
        "runs": followed[:MAX_NAMED_RUNS],
        "run_count": len(followed),
        "client": entry.client.address,
        "request_id": entry.client.request_id,
        "account": None if entry.owner is None else entry.owner.account,
        "user_agent": entry.client.user_agent,
        "opened_at": timestamp_of(int(entry.opened_at * 1000)),
        "state": standing.state,
        "ending": stream.reason,
        "cursor": standing.cursor,
        "lag_events": standing.lag.events,
        "lag_seconds": standing.lag.seconds,
        "lines": standing.lines,
        "events": standing.events,
        "bytes": standing.bytes,
        "unsent_bytes": standing.unsent_bytes,
        **_format(stream),
    }


def _format(stream: OpenStream) -> dict[str, Any]:
    """Return what a stream is sent; for what is no subscriber, nothing is known."""
    if not isinstance(stream, Subscriber):
        return {"format": None, "categories": [], "actions": []}
    chosen = stream.stream_format.filter
    if not isinstance(chosen, Filter):  # that of the stream of all runs
        chosen = Filter()
    return {
        "format": stream.gets,
        "categories": sorted(chosen.categories),
        "actions": sorted(chosen.actions),
    }


def _feed(feed: Feed, reader: int) -> dict[str, Any]:
    position, sizes = feed.position, feed.sizes()
    return {
        "run": feed.run_id,
        "reader": reader,
        "position": None if position.is_start else str(position.id),
        "sequence": position.sequence,
        "ended": feed.ended,
        "last_event_at": None if position.is_start else _time(position.id.ms),
        "viewers": dict(sizes.viewers),
        "merged": sizes.merged,
        "recent_bytes": sizes.recent_bytes,
        "history_pages": sizes.pages,
        "history_bytes": sizes.pages_bytes,
    }


def _time(ms: int) -> str | None:
    """Return the time in an id, None if it is none: others may give any."""
    return timestamp_of(ms) if ms < 253_402_300_800_000 else None
