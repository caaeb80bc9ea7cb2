"""Live ingest: each complete line is stored and delivered while its request is still open."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.clients import Stream
from tests.integration.ingest.producer import CHUNKED, Producer, chunk, data_of, line, wait_for_data
from tests.servers import wait_until


def test_a_line_reaches_a_follower_while_its_request_is_open(gateway, run_id):
    with (
        Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream,
        Producer(gateway, run_id) as producer,
    ):
        for number in range(1, 4):
            producer.send(line(number))
            stream.wait_for_events(number)
        status, answer = producer.end()
    assert (status, answer["stored"]) == (200, 3)
    assert answer["last_id"] == stream.events[-1].last_event_id
    assert stream.sequences == [1, 2, 3]


@pytest.mark.parametrize("small", [b"\n", b"{"])
def test_a_line_of_a_body_with_a_length_is_stored_before_the_next_line_comes(
    gateway, store, run_id, small
):
    with Producer(gateway, run_id, "Content-Length: 5000") as producer:
        producer.raw(line(1))
        wait_for_data(store, run_id, [1])
        producer.raw(line(2) + small)
        wait_for_data(store, run_id, [1, 2])


@pytest.mark.parametrize("http_chunk", [chunk, bytes], ids=["chunked", "with length"])
def test_lines_that_arrive_together_are_appended_in_one_round_trip(
    gateway, redis_client, run_id, http_chunk
):
    def calls() -> int:  # EVAL is what the gateway asks every second whether it can write
        return redis_client.info("commandstats")["cmdstat_evalsha"]["calls"]

    def wait_for(count: int) -> None:
        wait_until(lambda: redis_client.xlen(f"run:{run_id}:events") == count, "all are stored")

    requests.post(
        f"{gateway.url}/runs/{run_id}/events", json=json.loads(line())
    )  # so that the gateway is connected
    headers = [CHUNKED] if http_chunk is chunk else ["Content-Length: 50000"]
    with Producer(gateway, run_id, *headers) as producer:
        producer.raw(http_chunk(line("first")))
        wait_for(2)
        counts = []
        for stored in range(62, 62 + 5 * 60, 60):
            before = calls()
            producer.raw(b"".join(http_chunk(line(number)) for number in range(60)))
            wait_for(stored)
            counts.append(calls() - before)
        # What the gateway does by the clock, as the census, may come between.
        assert sorted(counts)[:3] == [1, 1, 1]
        assert max(counts) < 5


def test_curl_streams_the_output_of_a_program_into_a_run(gateway, store, run_id):
    with subprocess.Popen(
        [
            *("curl", "-sS", "-X", "POST", "-T", "-", "-H", "Content-Type: application/x-ndjson"),
            f"{gateway.url}/runs/{run_id}/events",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as curl:
        for number in range(3):
            curl.stdin.write(line(number))
            curl.stdin.flush()
            wait_for_data(store, run_id, list(range(number + 1)))
        answer, _ = curl.communicate(timeout=20)
    assert json.loads(answer)["stored"] == 3


def test_curl_with_put_gets_405_and_the_allowed_methods(gateway, run_id):
    curl = subprocess.run(
        ["curl", "-sSi", "-T", "-", f"{gateway.url}/runs/{run_id}/events"],
        input=line(1),
        stdout=subprocess.PIPE,
        timeout=20,
    )
    assert b" 405 " in curl.stdout
    [allowed] = [row for row in curl.stdout.splitlines() if row.startswith(b"Allow:")]
    assert b"POST" in allowed
    assert curl.stdout.endswith(b"}")


def test_a_hundred_requests_at_once_lose_and_mix_up_no_event(gateway, store, run_id):
    def feed(number: int) -> int:
        with Producer(gateway, f"{run_id}-{number % 10}") as producer:
            for each in range(20):
                producer.send(line([number, each]))
            return producer.end()[1]["stored"]

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(feed, range(100))) == [20] * 100
    for run in range(10):
        data = data_of(store, f"{run_id}-{run}")
        assert len(data) == 200
        for number in range(run, 100, 10):
            assert [each for of, each in data if of == number] == list(range(20))
