"""nginx, with its files in deploy/ and without, between the gateway and its clients."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from app.client import Client
from app.streaming.errors import InvalidEvent
from tests.clients import Stream
from tests.field.proxies import Nginx, skip_if_missing
from tests.field.traffic import EVENT, check_faults
from tests.servers import wait_until

PLAIN = "location / { proxy_pass http://127.0.0.1:8082; }"

pytestmark = skip_if_missing(Nginx)


@pytest.fixture
def start_nginx(gateway, tmp_path) -> Iterator[Callable[..., Nginx]]:
    """Return a function that starts nginx, by default with its files in deploy/."""
    with ExitStack() as stack:

        def start(location: str = Nginx.documented()) -> Nginx:
            return stack.enter_context(Nginx(tmp_path, gateway.port, location))

        yield start


# Live


def test_followers_need_no_special_configuration(start_nginx, store, run_id):
    with Stream(f"{start_nginx(PLAIN).url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        for number in range(1, 4):
            store.add(run_id, "llm", "stream")
            stream.wait_for_events(number)


def test_without_the_configuration_nginx_buffers_a_body(start_nginx, gateway, store, run_id):
    """The document says so."""

    def events() -> Iterator[dict]:
        yield EVENT
        time.sleep(0.5)
        assert not store.state(run_id).exists
        yield EVENT

    assert Client(start_nginx(PLAIN).url).stream(run_id, events()).stored == 2


def test_a_batch_may_be_as_large_as_the_gateway_allows(start_nginx, store, run_id):
    events = [{**EVENT, "data": "x" * 200_000}] * 20
    ids = Client(start_nginx().url).add_many(run_id, events)
    assert [event.id for event in store.get_events(run_id)] == ids


def test_a_producer_that_sends_on_gets_the_answer_to_a_bad_line(start_nginx, run_id):
    def events() -> Iterator[dict]:
        yield from (EVENT, {**EVENT, "event_category": "gateway"})
        for _ in range(100_000):
            yield {**EVENT, "data": "x" * 1000}

    with pytest.raises(InvalidEvent) as failed:
        Client(start_nginx().url).stream(run_id, events())
    assert failed.value.ingested.stored == 1


def test_nginx_ends_a_silent_request_and_blank_lines_prevent_that(start_nginx, store, run_id):
    nginx = start_nginx(
        Nginx.documented().replace("client_body_timeout 1h;", "client_body_timeout 1s;")
    )
    line = b'{"event_category": "llm", "event_action": "stream"}\n'
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=20) as producer:
        producer.sendall(
            f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        for sent in (line, *(b"\n" for _ in range(8)), line):
            producer.sendall(b"%x\r\n%b\r\n" % (len(sent), sent))
            time.sleep(0.25)
        wait_until(lambda: store.state(run_id).last_sequence == 2, "both are stored")
        assert producer.recv(1000) == b""
    assert store.state(run_id).last_sequence == 2


# Faults


def test_no_acknowledged_event_is_lost_or_doubled_while_nginx_is_reloaded(
    start_nginx, store, run_id
):
    nginx = start_nginx()
    check_faults(nginx.url, store, run_id, nginx.reload, times=3)
