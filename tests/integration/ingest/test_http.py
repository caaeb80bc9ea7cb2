"""Ingest and HTTP: chunks of every size, pipelining, errors, and connections that break off."""

import http.client

import pytest

from tests.integration.ingest.producer import (
    CHUNKED,
    LAST_CHUNK,
    Producer,
    chunk,
    data_of,
    head,
    length_of,
    line,
    wait_for_data,
)
from tests.servers import wait_until

BODY = line("é😀").replace(b"\n", b"\r\n") + b"\n" + line(2)


def test_a_body_may_be_cut_into_chunks_at_every_byte(gateway, store, run_id):
    with Producer(gateway, "") as producer:
        for cut in range(1, len(BODY)):
            producer.raw(head(run_id, CHUNKED) + chunk(BODY[:cut]) + chunk(BODY[cut:]))
            status, answer = producer.end()
            assert (status, answer["stored"], answer["last_sequence"]) == (200, 2, 2 * cut)


@pytest.mark.parametrize(
    "sent",
    [
        head("{}", CHUNKED) + b"".join(chunk(bytes([each])) for each in BODY) + LAST_CHUNK,
        head("{}", length_of(BODY)) + BODY,
    ],
    ids=["chunked", "with length"],
)
def test_a_request_may_come_byte_by_byte(gateway, store, run_id, sent):
    with Producer(gateway, "") as producer:
        for each in sent.replace(b"{}", run_id.encode(), 1):
            producer.raw(bytes([each]))
        assert producer.answer()[1]["stored"] == 2
    assert data_of(store, run_id) == ["é😀", 2]


def test_chunk_extensions_and_trailers_are_ignored(gateway, store, run_id):
    body = b'%x;name="value;"\r\n%b\r\n0;last\r\nX-Trailer: 1\r\n\r\n' % (len(BODY), BODY)
    with Producer(gateway, run_id) as producer:
        producer.raw(body + head(run_id, length_of(b"")))
        assert producer.answer()[1]["stored"] == 2
        assert producer.answer()[1]["stored"] == 0


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_connection_serves_the_request_after_a_complete_one(gateway, store, run_id, pipelined):
    state = b"GET /runs/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % run_id.encode()
    bodies = [chunk(BODY) + LAST_CHUNK, BODY, chunk(BODY + b"{}") + LAST_CHUNK, b""]
    framings = [CHUNKED, length_of(BODY), CHUNKED, length_of(b"")]
    sent = [head(run_id, *each) + body for each, body in zip(zip(framings), bodies, strict=True)]
    sent.insert(1, state)
    expected = [("stored", 2), ("length", 2), ("stored", 2), ("line", 4), ("stored", 0)]
    with Producer(gateway, "") as producer:
        if pipelined:
            producer.raw(b"".join(sent))
        for request, (name, value) in zip(sent, expected, strict=True):
            if not pipelined:
                producer.raw(request)
            assert producer.answer()[1][name] == value


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([CHUNKED], chunk(b"{\n") + b"{smuggled}"),
        ([CHUNKED], chunk(b"{\n") + LAST_CHUNK[:-2] + b"{smuggled}"),
        ([CHUNKED], b"zz\r\n{smuggled}"),
        (["Content-Length: 1000"], b"{\n{smuggled}"),
        (["Content-Length: 1000"], line(1) + b"{\n" + b" " * 500 + b"{smuggled}"),
        ([CHUNKED, "Idempotency-Key: a"], chunk(line(1)) + b"{smuggled}"),
        ([CHUNKED, "Content-Length: 5"], chunk(b"{\n") + b"{smuggled}"),
    ],
)
def test_after_an_error_no_byte_of_the_body_is_read_as_a_request(
    gateway, store, run_id, headers, body
):
    smuggled = f"{run_id}-smuggled"
    body = body.replace(b"{smuggled}", head(smuggled, length_of(line(1))) + line(1))
    with Producer(gateway, run_id, *headers) as producer:
        producer.raw(body)
        answer = http.client.HTTPResponse(producer.connection)
        answer.begin()
        assert answer.status == 400
        answer.read()
        assert producer.is_closed_by_the_gateway()
    assert not store.state(smuggled).exists


def test_an_http_1_0_request_may_have_a_body_with_a_length(gateway, run_id):
    with Producer(gateway, "") as producer:
        producer.raw(head(run_id, length_of(BODY), version="1.0") + BODY)
        assert producer.answer()[1]["stored"] == 2
        assert producer.is_closed_by_the_gateway()


@pytest.mark.parametrize("framing", [CHUNKED, length_of(BODY)])
def test_a_client_that_expects_100_continue_gets_it_before_it_sends(gateway, run_id, framing):
    with Producer(gateway, run_id, framing, "Expect: 100-continue") as producer:
        assert producer.connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        producer.raw(BODY if framing != CHUNKED else chunk(BODY) + LAST_CHUNK)
        assert producer.answer()[1]["stored"] == 2


# Connections that break off


@pytest.mark.parametrize("end", ["close_sending_half", "reset", "__exit__"])
@pytest.mark.parametrize("headers", [[CHUNKED], ["Content-Length: 9999"]])
def test_every_complete_line_is_stored_when_the_producer_disconnects(
    gateway, store, run_id, headers, end
):
    body = line(1) + line(2) + line(3)[:-1]
    with Producer(gateway, run_id, *headers) as producer:
        producer.raw(chunk(body) if headers == [CHUNKED] else body)
        wait_for_data(store, run_id, [1, 2])
        getattr(producer, end)()
        if end == "close_sending_half":
            status, answer = producer.answer()
            assert (status, answer["line"], answer["stored"]) == (400, 3, 2)
    ended = f"ingest ended run={run_id} "
    wait_until(lambda: ended in gateway.log.read_text(), "the gateway has ended the request")
    assert data_of(store, run_id) == [1, 2]
