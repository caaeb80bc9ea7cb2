"""The limits of ingest: how many requests are admitted, and how many bytes they may hold."""

import contextlib
import json
import time

import pytest
import requests

from tests.integration.ingest.producer import (
    Producer,
    head,
    is_healthy,
    length_of,
    line,
    send_until_answered,
)
from tests.servers import wait_until


def test_ingest_counts_against_max_streams_and_frees_its_places(start_gateway, run_id):
    gateway = start_gateway(MAX_STREAMS=2)
    with contextlib.ExitStack() as stack:
        producers = [stack.enter_context(Producer(gateway, run_id)) for _ in range(2)]
        for producer in producers:
            producer.send(b"\n")
        opened = "ingest opened"
        wait_until(lambda: gateway.log.read_text().count(opened) == 2, "both are open")
        with Producer(gateway, run_id) as refused:
            refused.send(line(1))
            send_until_answered(refused)
            status, answer = refused.answer()
        assert (status, answer["stored"], answer["line"]) == (503, 0, 1)
        assert is_healthy(gateway)
        for producer in producers:
            assert producer.end()[0] == 200
        with Producer(gateway, run_id) as producer:
            assert producer.end()[0] == 200


def large_body(size: int) -> tuple[bytes, bytes]:
    """Return a body of some bytes, without and with its last byte."""
    whole = line("x" * (size - len(line(""))))
    return whole[:-1], whole


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_a_gateway_that_holds_too_many_bytes_answers_429_and_recovers(start_gateway, run_id, kind):
    gateway = start_gateway(MAX_BODY_BYTES=262_144)
    unfinished, whole = large_body(260_000)
    opening = head(run_id, length_of(whole)).replace(b"application/x-ndjson", kind.encode())
    [worker] = gateway.workers()
    with contextlib.ExitStack() as stack:

        def begin() -> Producer:
            producer = stack.enter_context(Producer(gateway, ""))
            producer.raw(opening + unfinished)
            return producer

        producers = [begin() for _ in range(64)]

        def is_full() -> bool:
            for number, producer in enumerate(producers):
                if producer.was_answered():  # with 429: an earlier attempt took its room
                    producers[number] = begin()
            time.sleep(0.1)  # so that the gateway reads them
            answer = requests.post(
                f"{gateway.url}/runs/{run_id}/events",
                data=whole + whole,
                headers={"Content-Type": "application/x-ndjson"},
                timeout=20,
            )
            assert answer.status_code in (200, 429)
            if answer.status_code == 429:
                assert int(answer.headers["Retry-After"]) >= 1
                assert answer.json()["line"] == answer.json()["stored"] + 1
            return answer.status_code == 429

        wait_until(is_full, "the admission is full")
        with Producer(gateway, "") as one_more:
            one_more.raw(opening + whole)
            status, answer = one_more.answer()
        assert (status, answer["stored"]) == (429, 0)  # False is 0
        assert is_healthy(gateway)
        for producer in producers:
            producer.raw(whole[-1:])
            assert producer.answer()[0] in (200, 201)
    answer = requests.post(f"{gateway.url}/runs/{run_id}/events", json=json.loads(line()))
    assert answer.status_code == 201
    assert worker.is_running()


def test_a_thousand_dropped_requests_leave_no_descriptor_and_no_memory(
    start_gateway, store, run_id
):
    gateway = start_gateway(MAX_BODY_BYTES=262_144)
    [worker] = gateway.workers()

    def drop(count: int) -> None:
        """Drop requests, each after one complete line and part of another one."""
        for number in range(count):
            with Producer(gateway, run_id) as producer:
                producer.send(line(number), b" " * 20_000)
                if number % 2:
                    producer.reset()

    def all_ended() -> bool:
        log = gateway.log.read_text()
        return log.count("ingest opened") == log.count("ingest ended")

    drop(50)  # warms up
    wait_until(lambda: all_ended() and worker.num_fds(), "the first have ended")
    assert is_healthy(gateway)
    before = worker.num_fds()
    drop(1000)
    wait_until(all_ended, "all have ended")
    wait_until(lambda: worker.num_fds() <= before, f"no more than {before} descriptors")
    with Producer(gateway, run_id) as producer:
        producer.send(line(1))
        assert producer.end()[0] == 200  # it would be 429 if 20 MB were still held
