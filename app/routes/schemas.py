"""The schemas of requests: bodies of appends, the Idempotency-Key header, query parameters.

The metadata of their fields is for the description of the API.
"""

import re
from collections.abc import Iterable, Mapping, Set
from functools import cached_property
from types import MappingProxyType
from typing import Any

from flask import request
from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load
from marshmallow.validate import OneOf, Range, Regexp
from werkzeug.routing import BaseConverter

from ..streaming.backoff import give_turn
from ..streaming.errors import InvalidEvent, InvalidInput
from ..streaming.event import NAME, NAME_RULE
from ..streaming.event_id import EventId
from ..streaming.new_event import (
    MAX_EVENTS,
    MAX_NUMBER,
    MAX_SEQUENCE,
    NewEvent,
    check_idempotency_key,
    check_names,
)
from ..streaming.wire.dialects import DIALECTS

# A body with more names is refused with one message, and not with one for each name.
MAX_NAMES = 16

# After this many events of an array the other requests get their turn.
MAX_EVENTS_IN_A_ROW = 50

# How many runs a query may name, and a body may list.
MAX_NAMED_RUNS = 100
MAX_LISTED_RUNS = 1000

# Of a request that waits for the next event. Proxies give up after 60 seconds.
MAX_WAIT_SECONDS = 50

_USUAL_NAMES = frozenset({"event_category", "event_action", "data", "source", "traceparent"})
_NESTED_NAMES = frozenset({"category", "action"})
_ASSIGNED_BY_SERVER = frozenset({"id", "run_id", "sequence", "timestamp"})
_RUN_ID_PREFIX = Regexp(
    r"[A-Za-z0-9_.-]{0,128}\Z", error="Must be the beginning of a run id: A-Z a-z 0-9 _ . -"
)
_RUN_ID = Regexp(r"[A-Za-z0-9_.-]{1,128}\Z", error="Must be a run id: A-Z a-z 0-9 _ . -")
_NAME = Regexp(NAME, error=f"Must be {NAME_RULE}.")

_NATURAL_NUMBER = re.compile(r"[0-9]{1,18}")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")

# As JSON Schema has them.
RUN_ID = r"^[A-Za-z0-9_.-]{1,128}$"
EVENT_ID = r"^[0-9]{1,20}-[0-9]{1,20}$"
CURSOR = rf"^(earliest|latest|{EVENT_ID[1:-1]})?$"
MERGED_CURSOR = r"^(earliest|latest|m1\.[A-Za-z0-9_-]+)?$"
RUN_AND_CURSOR = rf"^({RUN_ID[1:-1]}(@{CURSOR[1:-1]})?)?$"
NO_RUN_ID = r"^\.{1,2}(@.*)?$"
_RUNS_CURSOR = r"^r1\.[0-9]{1,16}\.([A-Za-z0-9_.-]{1,128}|~)$"


class RunIdConverter(BaseConverter):
    """Match anything in the place of a run id, also slashes: the view then responds with 400."""

    regex = r"(?s:.)+?"
    part_isolating = False


def _about(description: str, **json_schema: Any) -> dict[str, Any]:
    """Return the metadata of a field: what it means, and more of its JSON Schema."""
    return {"description": description, **json_schema}


def _any_json(description: str) -> fields.Raw:
    """Return a field of any JSON value, by default null."""
    return fields.Raw(load_default=None, allow_none=True, metadata=_about(description))


class EventSchema(Schema):
    """The body of an append: flat names, or the nested form in which events are read."""

    def new_event_from(self, body: Any, max_bytes: int) -> tuple[NewEvent, int | None]:
        """Return the event to append, and its lease in seconds or None.

        `max_bytes` is the largest size of the event's JSON. Raises ValidationError if the body
        does not fit the schema, InvalidEvent if the event cannot be stored, and EventTooLarge.
        """
        event = self._parse_event(body)
        lease = event.pop("lease_seconds", None)
        return NewEvent.of(**event, max_bytes=max_bytes), lease

    def new_events_from(
        self, body: Iterable[Any], max_bytes: int
    ) -> tuple[list[NewEvent], int | None]:
        """Return the events of an array, and the last lease among them in seconds or None.

        `max_bytes` is the largest size of one event. Raises as `new_event_from` does, for the
        first bad event; its fields are then named `<index>.<field>`. Raises ValidationError if
        the array is empty, or has more than MAX_EVENTS events.
        """
        wrong_number = ValidationError({"body": [f"Must be 1 to {MAX_EVENTS} events."]})
        if isinstance(body, list) and not 1 <= len(body) <= MAX_EVENTS:
            raise wrong_number
        new_events: list[NewEvent] = []
        lease = None
        for index, item in enumerate(body):
            if index == MAX_EVENTS:
                raise wrong_number
            if index % MAX_EVENTS_IN_A_ROW == MAX_EVENTS_IN_A_ROW - 1:
                give_turn()
            try:
                new_event, own_lease = self.new_event_from(item, max_bytes)
            except ValidationError as error:
                messages = {f"{index}.{name}": why for name, why in error.messages_dict.items()}
                raise ValidationError(messages) from None
            except InvalidInput as error:
                raise error.of_item(index) from None
            new_events.append(new_event)
            lease = own_lease or lease
        if not new_events:
            raise wrong_number
        return new_events, lease

    def _parse_event(self, body: Any) -> dict[str, Any]:
        """Return the arguments of an append; raises ValidationError.

        A valid body with nothing but the usual names is returned as it is: marshmallow's
        loading is a tenth of an append's cost.
        """
        if (
            type(body) is dict
            and body.keys() <= _USUAL_NAMES
            and type(body.get("traceparent", "")) is str
        ):
            try:
                check_names(body.get("event_category"), body.get("event_action"))
            except InvalidEvent:  # the schema says what is wrong
                pass
            else:
                return body
        loaded: dict[str, Any] = self.load(body)
        return loaded

    event_category = fields.String(
        required=True, validate=_NAME, metadata=_about("The category; `gateway` is reserved.")
    )
    event_action = fields.String(required=True, validate=_NAME, metadata=_about("The action."))
    data = _any_json("Any JSON value, up to 128 levels deep.")
    source = _any_json("Any JSON value, as `data`.")
    traceparent = fields.String(
        load_default=None,
        allow_none=True,
        metadata=_about(
            "The trace that the event belongs to (W3C Trace Context), instead of the one in the "
            "header of the request. It is ignored if it is not valid."
        ),
    )
    lease_seconds = fields.Integer(
        strict=True,
        load_default=None,
        allow_none=True,
        validate=Range(1, MAX_NUMBER),
        metadata=_about(
            "The run is lost if it is silent for so many seconds; null means never. A whole "
            "number, without a decimal point."
        ),
    )

    @pre_load
    def flatten(self, body: Any, **kwargs: Any) -> Any:
        """Convert the nested form to flat names, and drop the names that the server assigns.

        Raises ValidationError.
        """
        body = _small_object(body)
        flat = {name: body[name] for name in body.keys() - _ASSIGNED_BY_SERVER - {"event"}}
        if "event" in body:
            if flat.keys() & {"event_category", "event_action"}:
                raise ValidationError(
                    "Must not stand beside event_category or event_action.", "event"
                )
            if not isinstance(body["event"], dict):
                raise ValidationError("Must be an object with category and action.", "event")
            if len(body["event"]) > MAX_NAMES:
                raise ValidationError(f"Must have no more than {MAX_NAMES} names.", "event")
            for name, value in body["event"].items():
                flat[f"event_{name}" if name in _NESTED_NAMES else f"event.{name}"] = value
        return flat


class RequestSchema(Schema):
    """The body of a request to the producer of a run."""

    action = fields.String(
        required=True, validate=_NAME, metadata=_about("What is asked: `request.<action>`.")
    )
    data = _any_json("Any JSON value, up to 128 levels deep.")
    source = _any_json("Any JSON value, as `data`.")

    @pre_load
    def check_shape(self, body: Any, **kwargs: Any) -> Any:
        """Raise ValidationError for what is no object, or has too many names."""
        return _small_object(body)


def _small_object(body: Any) -> dict[str, Any]:
    """Return a body that is an object with a reasonable number of names."""
    if not isinstance(body, dict):
        raise ValidationError("Must be a JSON object.", "body")
    if len(body) > MAX_NAMES:
        raise ValidationError(f"Must have no more than {MAX_NAMES} names.", "body")
    return body


def idempotency_key(header: str | None) -> str | None:
    """Return the key of an Idempotency-Key header without its quotes; None without a header.

    The quotes may be missing (draft-ietf-httpapi-idempotency-key-header requires them). Raises
    InvalidInput, which names the header, for anything but one key.
    """
    if header is None:
        return None
    key, field = header, "Idempotency-Key"
    quoted = len(header) > 1 and header[0] == header[-1] == '"'
    if quoted:
        key = header[1:-1]
    elif '"' in (header[:1], header[-1:]):
        raise InvalidInput(field, "must have quotes on both sides, or on none")
    # Servers and proxies join several headers of one name with commas.
    if "," in key and (not quoted or '"' in key):
        raise InvalidInput(field, "must be one key; a key with a comma in it needs quotes")
    check_idempotency_key(field, key)
    return key


class InvalidQuery(ValidationError):
    """Query parameters have values that are not allowed."""


class _EventIdField(fields.Field[EventId]):
    """An event id, `<ms>-<n>`."""

    def __init__(self, description: str) -> None:
        about = _about(description, type="string", pattern=EVENT_ID)
        super().__init__(load_default=None, metadata=about)

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> EventId:
        try:
            return EventId.parse(value)
        except InvalidInput as error:
            raise ValidationError(error.message) from None


class WholeNumberField(fields.Field[int]):
    """A whole number from `minimum` to `maximum`, in decimal digits."""

    def __init__(
        self, minimum: int, maximum: int, description: str, load_default: int | None = None
    ) -> None:
        about = _about(description, type="integer", minimum=minimum, maximum=maximum)
        super().__init__(load_default=load_default, metadata=about)
        self._minimum, self._maximum = minimum, maximum

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> int:
        # int() also allows spaces and underscores, which a URL must not contain.
        form = _WHOLE_NUMBER if self._minimum < 0 else _NATURAL_NUMBER
        number = int(value) if form.fullmatch(value) else self._minimum - 1
        if not self._minimum <= number <= self._maximum:
            raise ValidationError(
                f"Must be a whole number from {self._minimum} to {self._maximum}."
            )
        return number


def _flag(load_default: bool, description: str) -> fields.Boolean:
    """Return a field that is `true`, `false`, `1` or `0`."""
    return fields.Boolean(
        load_default=load_default,
        truthy={"true", "1"},
        falsy={"false", "0"},
        metadata=_about(f"{description} `1` and `0` are `true` and `false`."),
    )


def _names(description: str) -> fields.List[Any]:
    """Return a field of any number of names, of which empty ones do not count."""
    return fields.List(fields.String(), load_default=(), metadata=_about(description))


def _cursor(
    description: str, data_key: str | None = None, pattern: str = CURSOR
) -> fields.List[Any]:
    """Return a field of cursors: of several values, the last one that is not empty counts."""
    about = _about(description, type="string", pattern=pattern)
    return fields.List(fields.String(), load_default=(), data_key=data_key, metadata=about)


def _prefix() -> fields.String:
    about = _about("Only runs whose ids begin so.")
    return fields.String(load_default="", validate=_RUN_ID_PREFIX, metadata=about)


class Query(Schema):
    """A query string; unknown parameters are ignored."""

    class Meta:
        unknown = EXCLUDE

    @cached_property
    def _names(self) -> Set[str]:
        return {field.data_key or name for name, field in self.fields.items()}

    @cached_property
    def _repeatable(self) -> Set[str]:
        """The parameters of which all values count, or the last one, but for empty ones."""
        lists = (item for item in self.fields.items() if isinstance(item[1], fields.List))
        return {field.data_key or name for name, field in lists}

    @cached_property
    def _defaults(self) -> Mapping[str, Any]:
        return MappingProxyType(self.load({}))

    def of_request(self) -> Mapping[str, Any]:
        """Return the query of the current request; raises InvalidQuery."""
        try:
            if not request.query_string:
                return self._defaults
            query: dict[str, Any] = self.load(self._parameters())
        except ValidationError as error:
            raise InvalidQuery(error.messages_dict) from None
        return query

    def _parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        for name, values in request.args.lists():
            if name in self._repeatable:
                parameters[name] = [value for value in values if value]
            elif name in self._names and len(values) > 1:
                raise ValidationError({name: ["Must be given once."]})
            else:
                parameters[name] = values[0]
        return parameters


class AppendQuery(Query):
    """The query of an append."""

    expected_sequence = WholeNumberField(
        1, MAX_SEQUENCE, "Append only if the first event gets this sequence; else 409."
    )
    dialect = fields.String(
        load_default=None,
        validate=OneOf(tuple(DIALECTS)),
        metadata=_about(
            "Whose stream a body of Server-Sent Events is: which of its events begin and end the "
            "run. By default `raw`: only `[DONE]` ends it. Not with other bodies."
        ),
    )
    lease_seconds = WholeNumberField(
        1,
        MAX_NUMBER,
        "The run is lost if it is silent for so many seconds. With a body of Server-Sent Events; "
        "in other bodies each event has its own.",
    )


class _FilteringQuery(Query):
    """A query that filters events by any number of categories and actions."""

    category = _names("Only events of these categories, and those that end the run.")
    action = _names("Only events with these actions, and those that end the run.")


def _from_sequence() -> WholeNumberField:
    return WholeNumberField(
        1, MAX_SEQUENCE, "Start with the event that has this sequence, or with the next one."
    )


class PageQuery(_FilteringQuery):
    """The query of a page of history."""

    from_sequence = _from_sequence()

    after = _EventIdField("Only events after this one.")
    before = _EventIdField("Only events before this one.")
    order = fields.String(
        load_default="asc",
        validate=OneOf(("asc", "desc")),
        metadata=_about("Oldest first, or newest first."),
    )
    limit = WholeNumberField(
        1, 1000, "At most so many events; by default 100, and as lines all of them."
    )
    wait = WholeNumberField(
        0,
        MAX_WAIT_SECONDS,
        "Wait so many seconds for an event, if there is none yet. Not beside `before`, "
        "`order=desc` or lines.",
        load_default=0,
    )
    download = _flag(load_default=False, description="Answer lines, as a file to save.")


class RunsQuery(Query):
    """The query of a page of runs."""

    state = fields.String(
        load_default=None,
        validate=OneOf(("active", "ended")),
        metadata=_about("Only runs in this state; lost runs have ended."),
    )
    prefix = _prefix()
    after = fields.String(
        load_default=None, metadata=_about("The `next` of the page before.", pattern=_RUNS_CURSOR)
    )
    limit = WholeNumberField(1, 100, "At most so many runs.", load_default=50)


class _DebugQuery(Query):
    """The query of a page of what a worker is doing."""

    limit = WholeNumberField(1, 1000, "At most so many.", load_default=100)


class StreamsQuery(_DebugQuery):
    """The query of a page of open streams."""

    run = fields.String(
        load_default=None, validate=_RUN_ID, metadata=_about("Only those of this run.")
    )
    after = WholeNumberField(0, MAX_SEQUENCE, "The `next` of the page before.", load_default=0)


class FeedsQuery(_DebugQuery):
    """The query of a page of feeds."""

    after = fields.String(load_default="", metadata=_about("The `next` of the page before."))


class _ResumingQuery(Query):
    """The query of any stream; the header Last-Event-ID overrides its cursors."""

    last_event_id = _cursor(
        "Start after this event, with the first one (`earliest`), or with the next new one "
        "(`latest`). It counts if neither `Last-Event-ID` nor `lastEventId` is there."
    )
    last_event_id_camel = _cursor(
        "The same, as some libraries send it. It counts if `Last-Event-ID` is not there.",
        data_key="lastEventId",
    )
    typed = _flag(load_default=True, description="`false` leaves out every `event:` line.")
    format = fields.String(
        load_default="event",
        validate=OneOf(("event", "payload")),
        metadata=_about(
            "`payload` sends the data of each event alone, and control events as comments. It is "
            "for Server-Sent Events."
        ),
    )


class _FollowingQuery(_ResumingQuery):
    """The query of a stream of one log."""

    from_sequence = _from_sequence()

    tail = WholeNumberField(
        0, 10**9, "Start so many events before the end. Not beside `from_sequence`."
    )


class StreamQuery(_FilteringQuery, _FollowingQuery):
    """The query of the stream of one run."""


class MergedQuery(_FilteringQuery, _ResumingQuery):
    """The query of a stream of several runs, which the body names."""

    last_event_id = _cursor(
        "Go on where the stream was, or with the first or next event of all runs. It counts if "
        "neither `Last-Event-ID` nor `lastEventId` is there.",
        pattern=MERGED_CURSOR,
    )
    last_event_id_camel = _cursor(
        "The same, as some libraries send it. It counts if `Last-Event-ID` is not there.",
        data_key="lastEventId",
        pattern=MERGED_CURSOR,
    )


class NamedRunsQuery(MergedQuery):
    """The query of a stream of several runs, which it names."""

    run = fields.List(
        fields.String(metadata={"pattern": RUN_AND_CURSOR, "not": {"pattern": NO_RUN_ID}}),
        required=True,
        metadata=_about(
            "The runs, each once: `<run id>`, or `<run id>@<where to start in it>`, which is an "
            "event id, `earliest` or `latest`.",
            minItems=1,
            maxItems=MAX_NAMED_RUNS,
            uniqueItems=True,
        ),
    )


class ChangesQuery(_FollowingQuery):
    """The query of the stream of all runs."""

    prefix = _prefix()
