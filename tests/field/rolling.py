"""Load on two gateways behind a proxy: producers of every kind, and readers, that go on and on.

None of them repeats anything by itself, so each refusal is seen.
"""

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import requests

from app.client import Client
from app.streaming.errors import StoreUnavailable, UnexpectedSequence
from tests.servers import wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}

# Of a producer, after an event.
PAUSE_SECONDS = 0.2


class Load:
    """Threads that append or read until they are stopped, and what they have got."""

    def __init__(self, url: str, authority: str, run_id: str, early_answers: bool = True):
        """Say with `early_answers` whether a producer sees an answer before its body's end."""
        self.run_id = run_id
        self.streamed = f"{run_id}-streamed"
        self.stored: dict[str, int | None] = {}  # the data of an event → its sequence, if known
        self.acknowledged: set[tuple[int, str]] = set()
        self.refused: list[object] = []
        self.done: Counter[str] = Counter()
        self._slowest: dict[str, float] = {}
        self._url = url
        self._authority = authority
        self._early_answers = early_answers
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start everything."""
        kinds: list[Callable[[], Iterator[None]]] = [
            self._client,
            self._client,
            self._kept_connection,
            self._new_connections,
            self._http_2,
            self._lines,
            self._long_polls,
            self._states,
        ]
        for number, kind in enumerate(kinds):
            name = f"{kind.__name__.strip('_')}-{number}"
            thread = threading.Thread(target=self._run, args=(kind, name), name=name)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Let everything end in order."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, events: int) -> None:
        """Wait until so many events more are stored, and all kinds have done something."""
        before, steps = len(self.stored), self.done.copy()
        wait_until(lambda: len(self.stored) >= before + events, "appends go on", 60)
        others = [thread.name for thread in self._threads if "lines" not in thread.name]
        wait_until(lambda: all(self.done[name] > steps[name] for name in others), "all go on", 60)

    @property
    def longest_seconds(self) -> float:
        """How long the longest request took, without those that are long by their kind."""
        return max(took for name, took in self._slowest.items() if "lines" not in name)

    def _run(self, kind: Callable[[], Iterator[None]], name: str) -> None:
        steps = kind()
        while True:
            began = time.monotonic()
            try:
                next(steps)
            except StopIteration:
                return
            except Exception as error:
                self.refused.append((name, repr(error)))
                steps = kind()
            took = time.monotonic() - began
            self._slowest[name] = max(self._slowest.get(name, 0.0), took)
            self.done[name] += 1

    def _goes_on(self) -> bool:
        return not self._over.wait(PAUSE_SECONDS)

    def _event(self) -> dict:
        name = threading.current_thread().name
        return {**EVENT, "data": f"{name}-{self.done[name]}-{time.monotonic()}"}

    def _note(self, event: dict, sequence: int | None) -> None:
        self.stored[event["data"]] = sequence

    # Producers

    def _client(self) -> Iterator[None]:
        with Client(self._url, verify=self._authority, retry_seconds=0) as client:
            while self._goes_on():
                event = self._event()
                client.add(self.run_id, **event)
                self._note(event, None)
                yield

    def _kept_connection(self) -> Iterator[None]:
        parts = urlsplit(self._url)
        context = ssl.create_default_context(cafile=self._authority)
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=30, context=context
        )
        with contextlib.closing(connection):
            while self._goes_on():
                event = self._event()
                headers = {"Content-Type": "application/json"}
                path = f"/runs/{self.run_id}/events"
                connection.request("POST", path, json.dumps(event), headers)
                answer = connection.getresponse()
                body = answer.read()
                self._take(event, answer.status, body)
                yield

    def _new_connections(self) -> Iterator[None]:
        while self._goes_on():
            event = self._event()
            answer = requests.post(
                f"{self._url}/runs/{self.run_id}/events",
                json=event,
                verify=self._authority,
                timeout=30,
            )
            self._take(event, answer.status_code, answer.content)
            yield

    def _http_2(self) -> Iterator[None]:
        context = ssl.create_default_context(cafile=self._authority)
        with httpx.Client(
            base_url=self._url, http1=False, http2=True, verify=context, timeout=30
        ) as client:
            while self._goes_on():
                event = self._event()
                answer = client.post(f"/runs/{self.run_id}/events", json=event)
                self._take(event, answer.status_code, answer.content)
                yield

    def _take(self, event: dict, status: int, body: bytes) -> None:
        assert status == 201, (status, body)
        self._note(event, json.loads(body)["sequence"])

    def _lines(self) -> Iterator[None]:
        """Stream lines, and after each end of a stream the rest, as the answer says."""
        with Client(self._url, verify=self._authority, retry_seconds=0) as client:
            stored = 0
            while not self._over.is_set():
                try:
                    ingested = client.stream(
                        self.streamed, self._some_lines(stored), expected_sequence=stored + 1
                    )
                except (StoreUnavailable, UnexpectedSequence) as error:
                    if error.ingested is None and not self._early_answers:
                        stored = self._last_streamed(client)  # as docs/deploy.md says of Apache
                        continue
                    if error.ingested is None:
                        raise
                    ingested = error.ingested  # it must come back; this was stored
                if ingested.stored:
                    self.acknowledged.add((ingested.last_sequence, ingested.last_id))
                    stored = ingested.last_sequence
                yield

    def _last_streamed(self, client: Client) -> int:
        state = client.state(self.streamed)
        return state["last_sequence"] if state else 0

    def _some_lines(self, stored: int) -> Iterator[dict]:
        for number in range(stored, stored + 40):
            yield {**EVENT, "data": number}
            if not self._goes_on():
                return

    # Readers

    def _long_polls(self) -> Iterator[None]:
        after = "latest"
        with requests.Session() as session:
            while self._goes_on():
                answer = session.get(
                    f"{self._url}/runs/{self.run_id}/events",
                    params={"after": after, "wait": 5} if after != "latest" else {"limit": 1},
                    verify=self._authority,
                    timeout=30,
                )
                assert answer.status_code == 200, (answer.status_code, answer.text)
                events = answer.json()["events"]
                after = events[-1]["id"] if events else after
                yield

    def _states(self) -> Iterator[None]:
        with requests.Session() as session:
            while self._goes_on():
                for path in (
                    f"/runs/{self.run_id}",
                    f"/runs/{self.run_id}/events?limit=3",
                    "/runs",
                ):
                    answer = session.get(self._url + path, verify=self._authority, timeout=30)
                    assert answer.status_code == 200, (answer.status_code, answer.text)
                yield
