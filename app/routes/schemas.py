"""What a request may hold: the body of an append, and query parameters."""

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from flask import request
from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load
from marshmallow.validate import OneOf, Range, Regexp
from werkzeug.routing import BaseConverter

from ..streaming.errors import InvalidEvent, InvalidInput
from ..streaming.event import NAME, NAME_RULE
from ..streaming.event_id import EventId
from ..streaming.new_event import (
    MAX_EVENTS,
    MAX_NUMBER,
    MAX_SEQUENCE,
    NewEvent,
    check_names,
)

# More than that is not named one by one.
MAX_NAMES = 16

_USUAL_NAMES = frozenset({"event_category", "event_action", "data", "source"})
_ASSIGNED_BY_SERVER = frozenset({"id", "run_id", "sequence", "timestamp"})
_NAME = Regexp(NAME, error=f"Must be {NAME_RULE}.")


class RunIdConverter(BaseConverter):
    """Whatever stands where a run id is due, slashes too, so that its view can refuse it."""

    regex = r"(?s:.)+?"
    part_isolating = False


class EventSchema(Schema):
    """The body of an append: flat names, or the shape in which events are read."""

    def new_event_from(self, body: Any, max_bytes: int) -> tuple[NewEvent, int | None]:
        """The event to append, and its lease.

        Raises ValidationError, and InvalidEvent or EventTooLarge for what no event may hold.
        """
        event = self._parse_event(body)
        lease = event.pop("lease_seconds", None)
        return NewEvent.of(**event, max_bytes=max_bytes), lease

    def new_events_from(self, body: list[Any], max_bytes: int) -> tuple[list[NewEvent], int | None]:
        """The events of an array, and the last lease that one of them names.

        What is wrong with the first bad one is named by its index.
        """
        if not 1 <= len(body) <= MAX_EVENTS:
            raise ValidationError({"body": [f"Must be 1 to {MAX_EVENTS} events."]})
        new_events, lease = [], None
        for index, item in enumerate(body):
            try:
                new_event, own_lease = self.new_event_from(item, max_bytes)
            except ValidationError as error:
                named = {f"{index}.{name}": told for name, told in error.messages_dict.items()}
                raise ValidationError(named) from None
            except InvalidInput as error:
                raise error.of_item(index) from None
            new_events.append(new_event)
            lease = own_lease or lease
        return new_events, lease

    def _parse_event(self, body: Any) -> dict[str, Any]:
        """The arguments of an append.

        A body that is what it should be already needs no loading, a tenth of an append's cost.
        """
        if type(body) is dict and body.keys() <= _USUAL_NAMES:
            try:
                check_names(body.get("event_category"), body.get("event_action"))
            except InvalidEvent:  # the schema says what is wrong
                return self.load(body)
            return body
        return self.load(body)

    event_category = fields.String(required=True, validate=_NAME)
    event_action = fields.String(required=True, validate=_NAME)
    data = fields.Raw(load_default=None, allow_none=True)
    source = fields.Raw(load_default=None, allow_none=True)
    lease_seconds = fields.Integer(
        strict=True, load_default=None, allow_none=True, validate=Range(1, MAX_NUMBER)
    )

    @pre_load
    def flatten(self, body: Any, **kwargs: Any) -> Any:
        """Bring the shape of a read event to flat names, without what the server assigns."""
        if not isinstance(body, dict):
            raise ValidationError("Must be a JSON object.", "body")
        if len(body) > MAX_NAMES:
            raise ValidationError(f"Must have no more than {MAX_NAMES} names.", "body")
        flat = {name: body[name] for name in body.keys() - _ASSIGNED_BY_SERVER - {"event"}}
        if "event" in body:
            if flat.keys() & {"event_category", "event_action"}:
                raise ValidationError(
                    "Must not stand beside event_category or event_action.", "event"
                )
            if not isinstance(body["event"], dict):
                raise ValidationError("Must be an object with category and action.", "event")
            flat |= {f"event_{name}": value for name, value in body["event"].items()}
        return flat


def idempotency_key(header: str | None) -> str | None:
    """The key of an Idempotency-Key header, with or without its quotes; checked by the store.

    The header is draft-ietf-httpapi-idempotency-key-header's.
    """
    if header is None or '"' not in (header[:1], header[-1:]):
        return header
    if len(header) > 1 and header[0] == header[-1] == '"':
        return header[1:-1]
    raise InvalidInput("idempotency_key", "must have quotes on both sides, or on none")


class InvalidQuery(ValidationError):
    """Query parameters that are not of the form they must have."""


class _EventIdField(fields.Field):
    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> EventId:
        try:
            return EventId.parse(value)
        except InvalidInput as error:
            raise ValidationError(error.message) from None


class _Whole(fields.Field):
    def __init__(self, least: int, most: int, **kwargs: Any):
        super().__init__(**kwargs)
        self._least, self._most = least, most

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> int:
        # More than int() lets pass is none of a URL: signs, spaces, underscores.
        number = int(value) if value.isascii() and value.isdigit() and len(value) <= 18 else -1
        if not self._least <= number <= self._most:
            raise ValidationError(f"Must be a whole number from {self._least} to {self._most}.")
        return number


class _Query(Schema):
    """A query string; parameters that are not known are ignored."""

    class Meta:
        unknown = EXCLUDE

    @cached_property
    def _of_no_query(self) -> Mapping[str, Any]:
        return MappingProxyType(self.load({}))

    def of_request(self) -> Mapping[str, Any]:
        """The query of the current request; raises InvalidQuery."""
        if not request.query_string:
            return self._of_no_query
        try:
            return self.load(self._parameters())
        except ValidationError as error:
            raise InvalidQuery(error.messages_dict) from None

    def _parameters(self) -> dict[str, Any]:
        return request.args.to_dict()


class AppendQuery(_Query):
    """The query of an append."""

    expected_sequence = _Whole(1, MAX_SEQUENCE, load_default=None)


class _FilteringQuery(_Query):
    """A query whose filter may name several categories and actions."""

    category = fields.List(fields.String(), load_default=())
    action = fields.List(fields.String(), load_default=())

    def _parameters(self) -> dict[str, Any]:
        query: dict[str, Any] = request.args.to_dict()
        for name in ("category", "action"):
            query[name] = [value for value in request.args.getlist(name) if value]
        return query


class PageQuery(_FilteringQuery):
    """The query of a page of history."""

    after = _EventIdField(load_default=None)
    before = _EventIdField(load_default=None)
    order = fields.String(load_default="asc", validate=OneOf(("asc", "desc")))
    limit = _Whole(1, 1000, load_default=100)


class StreamQuery(_FilteringQuery):
    """The query of a stream, whose cursor the header Last-Event-ID overrides."""

    last_event_id = fields.String(load_default="")
    last_event_id_camel = fields.String(load_default="", data_key="lastEventId")
    tail = _Whole(0, 10**9, load_default=None)
    typed = fields.Boolean(load_default=True, truthy={"true", "1"}, falsy={"false", "0"})
