"""What the command line says on standard error: failures, and that it waits for the gateway."""

import logging
import re
import traceback

from ...protocol.options import shown_url
from ...streaming.errors import NotAllowed, StreamingError
from .terminal import printable, tell

_ERRNO = re.compile(r"\[Errno -?\d+\] ([^'\")\]]+)")
_CERTIFICATE = re.compile(r"certificate verify failed: ([^(\"')]*[^(\"') ])")
_RESOLVE = re.compile(r"Failed to resolve '([^']*)'")


def complain(message: str) -> None:
    """Print a message to standard error, each of its lines after the name of the program."""
    for line in message.splitlines():
        tell(f"tailrace: {printable(line)}")


def show_traceback() -> None:
    """Print the traceback of the exception that is handled to standard error."""
    for line in traceback.format_exc().splitlines():
        tell(printable(line))


def describe(error: StreamingError) -> str:
    """Return what an error says, in one line, and the id of the request that was refused."""
    text = _text_of(error)
    return text if error.request_id is None else f"{text} (request {error.request_id})"


def _text_of(error: StreamingError) -> str:
    text = " ".join(str(error).split())
    if text.startswith("no response from the gateway"):
        if match := _RESOLVE.search(text):
            return f"no response from the gateway: the host {match[1]} is not known"
        if match := _CERTIFICATE.search(text):
            return f"the certificate of the gateway is not trusted: {match[1]}; see --ca"
        if match := _ERRNO.search(text):
            return f"no response from the gateway: {match[1]}"
    if isinstance(error, NotAllowed):
        return f"not allowed: {text}; the token is that of TAILRACE_TOKEN or --token-file"
    return text


class WaitingNotice(logging.Handler):
    """Says once that the gateway is away, from what the client logs, and that it is back."""

    def __init__(self, url: str) -> None:
        super().__init__(logging.INFO)
        self._url = shown_url(url)
        self._said = False

    def listen(self) -> None:
        """Take what the client logs from now on."""
        logger = logging.getLogger("tailrace.client")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a notice if that is news."""
        message = str(record.msg)
        if message.startswith("cannot ") and not self._said:
            self._said = True
            complain(f"waiting for {self._url}: {_reason(record)}")
        elif message.startswith("reached ") and self._said:
            self._said = False
            complain(f"{self._url} is back")


def _reason(record: logging.LogRecord) -> str:
    """Return what the error says that a record ends with."""
    error = record.args[-1] if isinstance(record.args, tuple) and record.args else None
    return describe(error) if isinstance(error, StreamingError) else str(error)
