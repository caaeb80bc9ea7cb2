"""What the command line says on standard error: failures, and that it waits for the gateway."""

import logging
import re

from ...streaming.errors import NotAllowed, StreamingError
from .terminal import printable, tell

_ERRNO = re.compile(r"\[Errno -?\d+\] ([^'\")\]]+)")
_CERTIFICATE = re.compile(r"certificate verify failed: ([^(\"')]*[^(\"') ])")
_PASSWORD = re.compile(r"(?<=://)[^/]*@")
_RESOLVE = re.compile(r"Failed to resolve '([^']*)'")


def complain(message: str) -> None:
    """Print a message to standard error, each of its lines after the name of the program."""
    for line in message.splitlines():
        tell(f"tailrace: {printable(line)}")


def shown_url(url: str) -> str:
    """Return a URL without the name and the password in it."""
    return _PASSWORD.sub("", url)


def describe(error: StreamingError) -> str:
    """Return what an error says, in one line."""
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
    """Says once that the gateway is away, from what the client logs, until it is back."""

    def __init__(self, url: str) -> None:
        super().__init__(logging.WARNING)
        self._url = shown_url(url)
        self._said = False
        logger = logging.getLogger("tailrace.client")
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Print a notice if the gateway does not answer, and none was printed yet."""
        if self._said or not str(record.msg).startswith("cannot "):
            return
        self._said = True
        error = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        reason = describe(error) if isinstance(error, StreamingError) else str(error)
        complain(f"waiting for {self._url}: {reason}")

    def over(self) -> None:
        """Say that the gateway is back, if it was said to be away."""
        if self._said:
            self._said = False
            complain(f"{self._url} is back")
