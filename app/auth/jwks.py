"""The keys of an issuer: a JWK Set at a URL, read again and again in the background.

Tokens are verified with the keys in memory. While the issuer is away, the last good set stays.
"""

import logging
import math
import os
import random
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from ..streaming.backoff import backoff
from .fetch import FetchFailed, fetch
from .key import Key
from .keys import keys_of_set

REFRESH_SECONDS = 300.0
# Unknown key ids ask for a refresh, at most once in this time.
MIN_REFRESH_SECONDS = 30.0
INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0

FETCH_SECONDS = 10.0
MAX_SET_BYTES = 1024 * 1024

# What is remembered of key ids that tokens have named and no key has.
MAX_ASKED = 1000
MAX_KEY_ID_LENGTH = 256

LOOPBACK = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger("tailrace.auth")

_dice = random.SystemRandom()


class RemoteKeys:
    """The keys of one issuer, as far as this process knows them.

    Attributes:
        keys: the keys of the last good set, empty before there was one.
    """

    def __init__(self, url: str, on_change: Callable[[Sequence[Key]], None]) -> None:
        """`on_change` is called with the new keys. Raises ValueError for a URL that is not safe."""
        name = _name_of(url)
        if name is None:
            raise ValueError("must be an https URL without a user and a password")
        self.keys: tuple[Key, ...] = ()
        self._url = url
        self._name = name
        self._on_change = on_change
        self._told: tuple[Key, ...] = ()  # with which on_change has returned
        self._start_lock = threading.Lock()
        self._read_in: int | None = None  # the process whose thread reads
        self._started_at = 0.0
        self._is_read = threading.Event()
        self._wanted = threading.Event()
        self._is_failing = False
        self._good_since = -math.inf  # when the reading of the last good set began
        self._asked: OrderedDict[str, float] = OrderedDict()  # for key ids, and since when

    def ensure_started(self) -> None:
        """Read the set in the background from now on; a forked child has no such thread yet."""
        if self._read_in == os.getpid():
            return
        with self._start_lock:
            if self._read_in == os.getpid():
                return
            self._is_read, self._wanted = threading.Event(), threading.Event()
            self._started_at = time.monotonic()
            arguments = weakref.ref(self), self._wanted
            threading.Thread(target=_run, args=arguments, name="tailrace-keys", daemon=True).start()
            self._read_in = os.getpid()

    def wait_first(self, seconds: float) -> None:
        """Wait for the first try of this process, until so long after its start at most."""
        if not self._is_read.is_set():
            self._is_read.wait(max(0.0, self._started_at + seconds - time.monotonic()))

    def expect(self, key_id: str | None) -> bool:
        """Return whether a key that is not here may come with the next reading; return at once.

        `key_id` is what a token names. Asks for a refresh. A key that did not come with it may
        come later, but is not expected any more.
        """
        if self._good_since == -math.inf:
            return True
        if key_id is None or len(key_id) > MAX_KEY_ID_LENGTH:
            return False
        self._wanted.set()
        asked = self._asked.setdefault(key_id, time.monotonic())
        if len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)
        return self._good_since < asked

    def read(self) -> bool:
        """Read the set, and return whether it was good. Log only a change of that."""
        began = time.monotonic()
        try:
            self._take(tuple(self._fetch()))
        except FetchFailed as error:
            if not self._is_failing:
                log.warning("the keys of %s could not be read: %s", self._name, str(error))
            self._is_failing = True
        except Exception:
            if not self._is_failing:
                log.exception("the keys of %s could not be taken", self._name)
            self._is_failing = True
        else:
            if self._is_failing:
                log.info("the keys of %s were read again", self._name)
            self._is_failing = False
            self._good_since = began
        self._is_read.set()
        return not self._is_failing

    def _take(self, keys: tuple[Key, ...]) -> None:
        if keys != self.keys:
            self.keys = keys
        if self._told is not self.keys:
            told = self.keys
            self._on_change(told)
            self._told = told  # else it is called again with the next try

    def _fetch(self) -> list[Key]:
        document = fetch(self._url, FETCH_SECONDS, MAX_SET_BYTES)
        try:
            keys = keys_of_set(document)
        except ValueError as error:
            raise FetchFailed(str(error)) from None
        return keys


def _name_of(url: str) -> str | None:
    """Return a URL without its query, for logs; None if it is not safe to be asked for keys."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)
    if not is_safe or not host or "@" in parts.netloc:
        return None
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _run(reference: "weakref.ref[RemoteKeys]", wanted: threading.Event) -> None:
    """Read the set again and again, until nothing else refers to the keys."""
    pauses = backoff(INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS)
    last_wanted = -math.inf
    while (keys := reference()) is not None:
        if keys.read():
            pause = _dice.uniform(0.9, 1.0) * REFRESH_SECONDS
            pauses = backoff(INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS)
        else:
            pause = next(pauses)
        del keys
        until = time.monotonic() + pause
        if wanted.wait(pause):  # not more often than this, however many ask
            earliest = min(until, last_wanted + MIN_REFRESH_SECONDS)
            time.sleep(max(0.0, earliest - time.monotonic()))
            last_wanted = time.monotonic()
            wanted.clear()  # what is asked for from now on may not come with this reading
