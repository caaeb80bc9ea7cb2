"""Ingest while Redis is away, and while the gateway stops or reloads."""

import contextlib
import select
import signal
import socket
import threading

import pytest

from app.streaming.event_store import EventStore
from tests.integration.ingest.producer import (
    MAX_GROWTH,
    MB,
    Producer,
    chunk,
    is_healthy,
    line,
    send_until_answered,
    wait_for_data,
)
from tests.servers import wait_until

# Redis is away


@pytest.mark.parametrize("fault", ["stop", "pause"])
def test_the_answer_after_an_outage_of_redis_agrees_with_the_log(
    start_gateway, durable_redis, run_id, fault
):
    gateway = start_gateway(durable_redis.url)
    with Producer(gateway, run_id) as producer, durable_redis.client() as client:
        producer.send(*map(line, range(100)))
        wait_until(lambda: client.xlen(f"run:{run_id}:events") == 100, "they are stored")
        sending = threading.Thread(target=send_until_answered, args=(producer,))
        sending.start()
        wait_until(lambda: client.xlen(f"run:{run_id}:events") > 200, "more are stored")
        getattr(durable_redis, fault)()
        sending.join()
        status, answer = producer.answer()
        assert status == 503
        assert answer["stored"] > 200
        assert answer["line"] == answer["stored"] + 1
        durable_redis.start() if fault == "stop" else durable_redis.resume()
    with Producer(gateway, run_id) as producer:
        producer.send(line("again"))
        stored = producer.end()[1]["last_sequence"] - 1
    assert answer["stored"] <= stored <= answer["stored"] + answer.get("unknown", 0)


def test_a_slow_redis_slows_the_producer_and_not_the_worker(start_gateway, durable_redis, run_id):
    gateway = start_gateway(durable_redis.url, STREAM_MAXLEN=100)
    [worker] = gateway.workers()
    piece = chunk(line("x" * 10_000)) * 10
    with Producer(gateway, run_id) as producer:
        producer.send(line("first"))
        store = EventStore(durable_redis.url)
        wait_until(lambda: store.state(run_id).length, "it is stored")
        before = worker.memory_info().rss
        durable_redis.pause()
        sent, rest = 0, b""
        writable = select.poll()  # `select` takes no file above 1,023
        writable.register(producer.connection, select.POLLOUT)
        while writable.poll(300):
            rest = rest or piece
            rest = rest[producer.connection.send(rest, socket.MSG_DONTWAIT) :]
            sent += not rest
            assert sent * len(piece) < MAX_GROWTH
        assert worker.memory_info().rss < before + 8 * MB
        assert is_healthy(gateway)
        durable_redis.resume()
        producer.raw(rest)
        status, answer = producer.end()
    assert (status, answer["stored"]) == (200, 1 + 10 * (sent + bool(rest)))


# Stops and reloads


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_gateway_that_stops_answers_with_what_it_has_stored(start_gateway, store, run_id, number):
    gateway = start_gateway(DRAIN_SECONDS=1)
    [worker] = gateway.workers()
    with contextlib.ExitStack() as stack:
        producers = []
        for count in range(10):
            producers.append(stack.enter_context(Producer(gateway, f"{run_id}-{count}")))
            producers[-1].send(*map(line, range(count)), b'{"half')
            wait_for_data(store, f"{run_id}-{count}", list(range(count)))
        gateway.process.send_signal(number)
        for count, producer in enumerate(producers):
            status, answer = producer.answer()
            assert (status, answer["stored"], answer["line"]) == (503, count, count + 1)
            assert answer["last_sequence"] == (count or None)
            assert producer.is_closed_by_the_gateway()
    worker.wait(30)
    if number == signal.SIGHUP:
        wait_until(lambda: gateway.workers() and is_healthy(gateway), "another worker serves")
        with Producer(gateway, run_id) as producer:
            producer.send(line(1))
            assert producer.end()[0] == 200
    else:
        assert gateway.process.wait(30) == 0


def test_a_producer_that_sends_on_while_the_gateway_stops_gets_the_answer(
    start_gateway, store, run_id
):
    gateway = start_gateway(DRAIN_SECONDS=1)
    with Producer(gateway, run_id) as producer:
        sending = threading.Thread(target=send_until_answered, args=(producer,))
        sending.start()
        wait_until(lambda: store.state(run_id).length > 10, "some are stored")
        gateway.process.send_signal(signal.SIGTERM)
        sending.join()
        status, answer = producer.answer()
    assert status == 503
    assert answer["stored"] == store.state(run_id).last_sequence
    assert gateway.process.wait(30) == 0
