"""Many producers at once, in Python and over HTTP."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import requests

from app.streaming.event_store import EventStore

PRODUCERS, EACH = 8, 1250


def _append(url: str, run_id: str) -> None:
    store = EventStore(url, maxlen=20_000)
    for number in range(EACH):
        store.add(run_id, "llm", "stream", number)


def test_eight_processes_number_ten_thousand_events_without_gap_or_repeat(
    redis_server, store, run_id
):
    context = multiprocessing.get_context("spawn")
    producers = [
        context.Process(target=_append, args=(redis_server.url, run_id)) for _ in range(PRODUCERS)
    ]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
        assert producer.exitcode == 0
    sequences = [event.sequence for event in store.get_events(run_id)]
    assert sequences == list(range(1, PRODUCERS * EACH + 1))


def test_concurrent_posts_are_numbered_as_they_are_answered(gateway, store, run_id):
    url = f"{gateway.url}/runs/{run_id}/events"

    def post(number: int) -> dict:
        body = {"event_category": "llm", "event_action": "stream", "data": number}
        answer = requests.post(url, json=body)
        assert answer.status_code == 201
        return answer.json()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(400)))
    stored = {event.id: event for event in store.get_events(run_id)}
    assert sorted(answer["sequence"] for answer in answers) == list(range(1, 401))
    for answer in answers:
        event = stored[answer["id"]]
        assert (event.sequence, event.data) == (answer["sequence"], answer["data"])
