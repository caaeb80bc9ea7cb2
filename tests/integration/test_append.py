"""Many producers at once, in Python and over HTTP."""

import http.client
import itertools
import json
import multiprocessing
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from app.streaming.event_store import EventStore

PRODUCERS, EACH = 8, 1250


def _append(url: str, run_id: str) -> None:
    store = EventStore(url, maxlen=20_000)
    for number in range(EACH):
        store.add(run_id, "llm", "stream", number)


def test_eight_processes_append_ten_thousand_events_numbered_without_gap_or_repeat(
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


def test_concurrent_posts_have_the_sequences_of_their_answers(gateway, store, run_id):
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


def test_a_body_may_come_in_pieces_after_its_head(gateway, run_id):
    event = {"event_category": "llm", "event_action": "stream", "data": "x" * 200_000}
    body = json.dumps(event).encode()
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    pieces = [
        [head, body],
        [head[:-1], head[-1:] + body],
        [head + body[:1], body[1:]],
        [head, body[:50], body[50:-1], body[-1:]],
        [head, body[:70_000], body[70_000:]],
    ]
    number = 0
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sent, pause in itertools.product(pieces, (0, 0.02)):
            number += 1
            for piece in sent:
                connection.sendall(piece)
                time.sleep(pause)  # with the pause they arrive one by one
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, json.loads(answer.read())["sequence"]) == (201, number)
