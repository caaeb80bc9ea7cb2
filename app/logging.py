"""A handler for the logging of Python, which sends each record as an event of a run."""

import logging
import re
import time
import traceback
from typing import Any, Protocol

from .client import Client
from .streaming import at_exit
from .streaming.appender import Appender, is_sending
from .streaming.errors import (
    AppenderFull,
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    StreamingError,
)
from .streaming.event import check_run_id, timestamp_of
from .streaming.event_json import encode_json
from .streaming.new_event import MAX_EVENT_BYTES, check_names

# After an error that ends an appender, before the next one is made.
REOPEN_SECONDS = 30.0

# Its own records would make an endless loop.
_OWN_LOGGERS = re.compile(r"tailrace(\.|\Z)")

_NOT_OF_A_NAME = re.compile(r"[^a-z0-9_-]+")
_MAX_NAME = 64

# What every record has; the rest is what the program has added.
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_TEXTS = ("message", "exception", "stack")


class HasAppenders(Protocol):
    """A Client or an EventStore."""

    def appender(self, run_id: int | str) -> Appender: ...


class RunHandler(logging.Handler):
    """Sends records as events `log.<level>` of a run, in the background.

    It never raises into the program and never waits in it. While 10,000 records or 8 MiB wait
    to be sent, further ones are dropped; the next that is sent says how many, as `dropped`.
    After an error, such as an outage of more than 30 seconds or the end of the run, it prints
    on standard error what is not stored, drops records for 30 seconds, and tries again.

    It skips the records of Tailrace itself, and those that are logged while one is sent. Any
    thread, a signal handler and a forked child may log. `flush` and `close` wait until the
    records are stored, and print what is not; so does the exit of the program.

    Args:
        run_id: the run.
        store: a Client or an EventStore. Instead of it, `url` is that of a gateway.
        url: begins with `http://` or `https://`.
        token: for the gateway at `url`, as for Client.
        category: of the events.
        level: records below it are skipped.
    """

    def __init__(
        self,
        run_id: int | str,
        store: HasAppenders | None = None,
        *,
        url: str | None = None,
        token: Any = None,
        category: str = "log",
        level: int | str = logging.NOTSET,
    ):
        """Raises InvalidInput for a wrong argument."""
        check_names(category, "info")
        self._run_id = check_run_id(run_id)
        self._category = category
        if (store is None) == (url is None):
            raise InvalidInput("url", "give either a store or a url")
        self._store: HasAppenders = store or Client(str(url), token=token)
        self._appender = self._store.appender(self._run_id)
        if not isinstance(self._appender, Appender):
            raise InvalidInput("store", "must be a Client or an EventStore")
        self._gave_up_at: float | None = None
        self._is_closed = False
        self._told = 0
        self.dropped = 0
        """How many records are not stored, as far as it is known."""
        super().__init__(level)  # from now on `logging.shutdown` knows it

    def handle(self, record: logging.LogRecord) -> Any:
        """Send a record, unless it comes of sending another one.

        The thread that sends must not wait for the lock that `logging.shutdown` holds while it
        flushes.
        """
        if is_sending() or _OWN_LOGGERS.match(str(record.name)):
            return False
        return super().handle(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record sent."""
        if self._is_closed:
            return
        try:
            self._emit(record)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all records so far are stored. Print what is not on standard error."""
        at_exit.flush(self._appender)
        if self._appender.has_final_error:
            self._give_up()

    def close(self) -> None:
        """Flush, and send no more records."""
        self._is_closed = True
        self.flush()
        super().close()

    def _emit(self, record: logging.LogRecord) -> None:
        if not self._is_open():
            self.dropped += 1
            return
        action, data = _action(record), self._data(record)
        if self.dropped > self._told:
            data["dropped"] = self.dropped - self._told
        try:
            self._emit_cut(action, data)
        except AppenderFull:
            self.dropped += 1
        except StreamingError:
            if not self._appender.has_final_error:
                raise
            self._give_up()
            self.dropped += 1
        else:
            self._told = self.dropped

    def _emit_cut(self, action: str, data: dict[str, Any]) -> None:
        """Have an event appended, whose texts are cut until it fits."""
        length = MAX_EVENT_BYTES
        while True:
            try:
                self._appender.emit_nowait(self._category, action, data)
                return
            except EventTooLarge:
                length //= 2
                if not length:
                    raise
            data = _cut(data, length)

    def _is_open(self) -> bool:
        """Return whether records may be sent; make another appender when it is time to."""
        if self._appender.has_final_error and self._gave_up_at is None:
            self.flush()  # which prints the error, and does not wait
        if self._gave_up_at is None:
            return True
        if time.monotonic() < self._gave_up_at + REOPEN_SECONDS:
            return False
        self._appender, self._gave_up_at = self._store.appender(self._run_id), None
        return True

    def _give_up(self) -> None:
        if self._gave_up_at is None:
            self._gave_up_at = time.monotonic()
            self.dropped += self._appender.not_stored

    def _data(self, record: logging.LogRecord) -> dict[str, Any]:
        data: dict[str, Any] = {
            "message": self._message(record),
            "logger": str(record.name),
            "level": str(record.levelname),
            "time": timestamp_of(int(record.created * 1000)),
            "module": record.module,
            "line": record.lineno,
        }
        if record.exc_info and record.exc_info[0] is not None:
            data["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        elif record.exc_text:
            data["exception"] = record.exc_text
        if record.stack_info:
            data["stack"] = record.stack_info
        extra = {str(name): _json(value) for name, value in _extra(record).items()}
        return {**data, "extra": extra} if extra else data

    def _message(self, record: logging.LogRecord) -> str:
        try:
            if self.formatter is not None:
                return self.formatter.format(record)
            return record.getMessage()
        except Exception:  # the arguments do not fit the message, or cannot be shown
            arguments = f" {_text(record.args)}" if record.args else ""
            return f"{_text(record.msg)}{arguments}"


def _action(record: logging.LogRecord) -> str:
    """Return the level of a record as the action of an event."""
    name = _NOT_OF_A_NAME.sub("_", str(record.levelname).lower())[:_MAX_NAME]
    return name if name.strip("_") else f"level_{record.levelno}"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _USUAL}


def _json(value: Any) -> Any:
    """Return a value if JSON can hold it, otherwise its text."""
    try:
        encode_json("extra", value, MAX_EVENT_BYTES)
    except (InvalidEvent, EventTooLarge):
        return _text(value)
    return value


def _text(value: Any) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception:
        return f"<unprintable {type(value).__name__}>"


def _cut(data: dict[str, Any], length: int) -> dict[str, Any]:
    """Return the data with texts of at most about `length` characters."""
    cut = {name: _cut_text(each, length) if name in _TEXTS else each for name, each in data.items()}
    if "extra" in data:
        pairs = data["extra"].items()
        cut["extra"] = {name[:length]: _cut_extra(value, length) for name, value in pairs}
    return cut


def _cut_extra(value: Any, length: int) -> Any:
    text = _text(value)
    return value if len(text) <= length else _cut_text(text, length)


def _cut_text(text: str, length: int) -> str:
    left_out = len(text) - length
    return text if left_out <= 0 else f"{text[:length]} … {left_out} characters cut"
