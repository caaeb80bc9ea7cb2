"""Plain appends: Flask is not asked for them, and they answer and store what it would."""

import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from app import create_app
from app.routes.writing.plain_appends import PlainHead
from tests.differential.play import gateways, play
from tests.raw_http import read_until
from tests.servers import GatewayServer, wait_until

CONVERSATIONS = 150
EVENT = b'{"event_category":"llm","event_action":"stream","data":"x"}'
OTHER = "X-Odd: 1\r\n"


@pytest.fixture(scope="module")
def asked(redis_server, tmp_path_factory) -> Iterator[GatewayServer]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    application = "tests.programs.asked_gateway:app"
    with GatewayServer(redis_server.url, log, application=application) as gateway:
        yield gateway


def request_of(run_id: str, headers: str = "", body: bytes = EVENT) -> bytes:
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n{headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def asked_for(gateway: GatewayServer, run_id: str) -> int:
    return len(re.findall(rf"asked \w+ /runs/{run_id}\b", gateway.log.read_text()))


def exchange(connection: socket.socket, sent: bytes, until: bytes) -> bytes:
    connection.sendall(sent)
    return read_until(connection, until)


@pytest.fixture
def connection(asked) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", asked.port), timeout=20) as connection:
        yield connection


def test_flask_is_asked_for_no_plain_append_and_for_every_other_request(
    asked, connection, store, run_id
):
    exchange(connection, request_of(run_id), b'"source":null}')  # its Host is known from now on
    before = asked_for(asked, run_id)
    for headers in ("", "", OTHER, "", "Idempotency-Key: a\r\n", "Idempotency-Key: a\r\n"):
        assert b"HTTP/1.1 20" in exchange(connection, request_of(run_id, headers), b"null}")
    assert asked_for(asked, run_id) == before + 1
    exchange(connection, request_of(run_id, body=b"[%b,%b]" % (EVENT, EVENT)), b"]}")
    assert asked_for(asked, run_id) == before + 1
    page = f"GET /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    exchange(connection, page.encode(), b'"next":')
    exchange(connection, request_of(run_id), b"null}")
    assert asked_for(asked, run_id) == before + 2
    assert [event.sequence for event in store.get_events(run_id)] == list(range(1, 10))


def test_what_the_view_refuses_is_left_to_it(asked, connection, run_id):
    exchange(connection, request_of(run_id), b"null}")
    before = asked_for(asked, run_id)
    answer = exchange(connection, request_of(run_id, body=b'{"odd":1}'), b"]}")
    assert b"422" in answer
    assert asked_for(asked, run_id) == before + 1


def test_what_redis_refuses_is_answered_without_the_view(asked, connection, run_id):
    end = b'{"event_category":"lifecycle","event_action":"completed"}'
    for body in (EVENT, end):
        exchange(connection, request_of(run_id, body=body), b"null}")
    before = asked_for(asked, run_id)
    answer = exchange(connection, request_of(run_id), b"}")
    assert b"HTTP/1.1 409 CONFLICT" in answer
    assert f"append refused path='/runs/{run_id}/events' status=409" in asked.log.read_text()
    assert asked_for(asked, run_id) == before


def test_an_unknown_outcome_is_answered_and_the_append_not_repeated(start_redis, tmp_path, run_id):
    redis = start_redis()
    application = "tests.programs.asked_gateway:app"
    with GatewayServer(redis.url, tmp_path / "log", application=application) as gateway:
        address = "127.0.0.1", gateway.port
        with socket.create_connection(address, timeout=30) as connection:
            exchange(connection, request_of(run_id), b"null}")
            before = asked_for(gateway, run_id)
            redis.pause()
            answer = exchange(connection, request_of(run_id), b'"}')
            redis.resume()
            assert b"HTTP/1.1 503 " in answer
            assert b'"stored":"unknown"' in answer
            assert asked_for(gateway, run_id) == before
            last = exchange(connection, request_of(run_id), b"null}")
            assert re.search(rb'"sequence":[23],', last), last
            count = int(re.search(rb'"sequence":(\d)', last)[1])
            page = f"GET /runs/{run_id} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            assert b'"length":%d' % count in exchange(connection, page.encode(), b"}")


def test_a_stop_answers_what_has_come_and_closes_the_connection(start_gateway, run_id):
    gateway = start_gateway(DRAIN_SECONDS=30)
    connections = [
        socket.create_connection(("127.0.0.1", gateway.port), timeout=20) for _ in range(20)
    ]
    for connection in connections:
        exchange(connection, request_of(run_id), b"null}")
    gateway.process.send_signal(signal.SIGTERM)
    for number, connection in enumerate(connections):
        connection.sendall(request_of(run_id, OTHER if number % 2 else ""))
    for connection in connections:
        with connection:
            answer = read_until(connection, b"null}")
            assert b"HTTP/1.1 201" in answer
            assert answer.count(b"Connection: close") == 1
            assert connection.recv(100) == b""
    wait_until(lambda: gateway.process.poll() == 0, "the gateway has stopped")


@pytest.mark.parametrize("headers", ["", OTHER])
def test_a_request_that_is_coming_when_gunicorn_has_nothing_more_to_do_is_answered(
    start_gateway, run_id, headers
):
    gateway = start_gateway(DRAIN_SECONDS=30)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        exchange(connection, request_of(run_id), b"null}")
        gateway.process.send_signal(signal.SIGTERM)
        time.sleep(1.5)  # gunicorn looks once a second
        request = request_of(run_id, headers)
        connection.sendall(request[:-5])
        time.sleep(2.5)  # longer than the drain waits for silent connections
        answer = exchange(connection, request[-5:], b"null}")
        assert b"HTTP/1.1 201" in answer
        assert b"Connection: close" in answer
    wait_until(lambda: gateway.process.poll() == 0, "the gateway has stopped")


def test_an_unexpected_error_is_logged_with_its_traceback(store, monkeypatch, caplog):
    app = create_app(event_store=store)
    monkeypatch.setattr(store, "append_each", Mock(side_effect=ValueError("odd")))
    connection = Mock(head=PlainHead("/runs/1/events", "1", len(EVENT), "localhost", None, None))
    connection.body = EVENT
    app.extensions["tailrace.plain_appends"].handle([connection])
    [answer, closes] = connection.answer.call_args.args
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert not closes
    assert "ValueError: odd" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.timeout(200)
def test_both_ways_answer_and_store_the_same(tmp_path):
    seed = str(random.randrange(10**6))
    with gateways(tmp_path) as started:
        outcome = play(started, seed, CONVERSATIONS)
    assert outcome.differences == [], f"of seed {seed}"
    assert outcome.answers > CONVERSATIONS
