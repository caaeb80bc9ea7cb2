"""The keys of an issuer: a JWK Set at a URL, read again and again in the background.

Whoever verifies a token looks in memory only. While the issuer is away, the last good set stays.
"""

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

import requests

from ..streaming.backoff import backoff
from .keys import Key, keys_of_set

REFRESH_SECONDS = 300.0
# An unknown key id asks for a refresh, at most once in this time.
MIN_REFRESH_SECONDS = 30.0
INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0

# For the whole answer, though it may come byte by byte.
FETCH_SECONDS = 10.0
READ_SECONDS = 5.0
MAX_SET_BYTES = 1024 * 1024

LOOPBACK = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger("tailrace.auth")


class _Failed(Exception):
    """The set could not be read; the message says why."""


class RemoteKeys:
    """The keys of one issuer, as far as this process knows them.

    Attributes:
        keys: the keys of the last good set, empty before there was one.
    """

    def __init__(self, url: str, on_change: Callable[[Sequence[Key]], None]) -> None:
        """`on_change` is called with the new keys. Raises ValueError for a URL that is not safe."""
        parts = urlsplit(url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        if not is_safe or not parts.hostname or "@" in parts.netloc:
            raise ValueError("must be an https URL without a user and a password")
        self.keys: tuple[Key, ...] = ()
        self._url = url
        self._name = f"{parts.scheme}://{parts.hostname}{parts.path}"
        self._on_change = on_change
        self._read_in: int | None = None  # the process whose thread reads
        self._is_read = threading.Event()
        self._wanted = threading.Event()
        self._is_failing = False

    def ensure_started(self) -> None:
        """Read the set in the background from now on; a forked child has no such thread yet."""
        if self._read_in == os.getpid():
            return
        self._read_in = os.getpid()
        self._is_read, self._wanted = threading.Event(), threading.Event()
        arguments = weakref.ref(self), self._wanted
        threading.Thread(target=_run, args=arguments, name="tailrace-keys", daemon=True).start()

    def wait_first(self, seconds: float) -> None:
        """Wait for the first set of this process, but not longer than this."""
        if not self._is_read.is_set():
            self._is_read.wait(seconds)

    def want(self, key_id: str) -> None:
        """Ask for a refresh, since a token names a key that is not here; return at once."""
        if all(key.id != key_id for key in self.keys):
            self._wanted.set()

    def read(self, pauses: Iterator[float]) -> float:
        """Read the set once; return how long to wait before the next time."""
        self._wanted.clear()
        pause = random.uniform(0.9, 1.0) * REFRESH_SECONDS
        try:
            self._take(self._fetch())
            self._note(None)
        except _Failed as error:
            pause = next(pauses)
            self._note(str(error))
        except Exception:
            pause = next(pauses)
            log.exception("the keys of %s could not be read", self._name)
        finally:
            self._is_read.set()
        return pause

    def _take(self, keys: list[Key]) -> None:
        if tuple(keys) != self.keys:
            self.keys = tuple(keys)
            self._on_change(self.keys)

    def _note(self, failure: str | None) -> None:
        """Log the change between good and failing, not each try."""
        if (failure is not None) == self._is_failing:
            return
        self._is_failing = failure is not None
        if failure is None:
            log.info("the keys of %s were read again", self._name)
        else:
            log.warning("the keys of %s could not be read: %s", self._name, failure)

    def _fetch(self) -> list[Key]:
        deadline = time.monotonic() + FETCH_SECONDS
        try:
            with requests.Session() as session:
                session.trust_env = False  # no .netrc; the issuer is asked for nothing else
                with session.get(
                    self._url, timeout=READ_SECONDS, stream=True, allow_redirects=False
                ) as response:
                    if response.status_code != 200:
                        raise _Failed(f"the status is {response.status_code}")
                    document = bytearray()
                    while piece := response.raw.read1(65536):
                        document += piece
                        if len(document) > MAX_SET_BYTES or time.monotonic() > deadline:
                            raise _Failed("the answer is too long, or comes too slowly")
        except (requests.RequestException, OSError) as error:
            raise _Failed(type(error).__name__) from None
        try:
            keys = keys_of_set(bytes(document))
        except ValueError as error:
            raise _Failed(str(error)) from None
        if not keys:
            raise _Failed("no key of the set can be used")
        return keys


def _run(reference: "weakref.ref[RemoteKeys]", wanted: threading.Event) -> None:
    """Read the set again and again, until nothing else refers to the keys."""
    pauses = backoff(INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS)
    while (keys := reference()) is not None:
        began = time.monotonic()
        pause = keys.read(pauses)
        if pause > MAX_RETRY_SECONDS:  # it was read
            pauses = backoff(INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS)
        del keys
        until = time.monotonic() + pause
        if wanted.wait(pause):
            earliest = min(until, began + MIN_REFRESH_SECONDS)
            time.sleep(max(0.0, earliest - time.monotonic()))
