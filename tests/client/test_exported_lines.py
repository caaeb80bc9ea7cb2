"""The history of a run as lines, byte for byte, over breaks of the connection."""

import pytest

from app.client import Client
from app.streaming.errors import InvalidInput, NotAllowed, Refused, StoreUnavailable
from tests.both_clients import replace_pauses
from tests.client.fake_gateway import FakeGateway, problem, response


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """Record the pauses, which take no time."""
    pauses: list[float] = []
    replace_pauses(monkeypatch, pauses.append)
    return pauses


def line(number: int, data: str = "1.0") -> bytes:
    return (
        f'{{"id":"{number}-0","run_id":"1","sequence":{number},"timestamp":null,'
        f'"event":{{"category":"llm","action":"stream"}},"data":{data},"source":null}}\n'
    ).encode()


def lines_of(body: bytes, *, whole: bool = True) -> bytes:
    """Return a response of lines; unless it is whole, its connection ends too early."""
    length = len(body) if whole else len(body) + 100
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: {length}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def exported(script: list[bytes], after: str | None = None, **options: object):
    """Return the lines that a client exports, and the `after` of each request."""
    with FakeGateway(script) as gateway, Client(gateway.url, **options) as client:
        lines = list(client.export_events(1, after))
    return lines, [request.query.get("after") for request in gateway.requests]


def test_lines_come_as_they_were_sent():
    odd = line(1, '{"z":1.0,"a":1E400,"b":123456789012345678901234567890}')
    lines, _ = exported([lines_of(line(2) + line(3))])
    assert lines == [line(2)[:-1], line(3)[:-1]]
    lines, afters = exported([lines_of(odd.replace(b"1E400", b"1e5"))], "0-5")
    assert lines == [odd.replace(b"1E400", b"1e5")[:-1]]
    assert afters == [["0-5"]]


def test_after_a_break_it_goes_on_behind_the_last_whole_line():
    script = [
        lines_of(line(1) + line(2) + line(3)[:20], whole=False),
        problem(503),
        lines_of(line(3)),
    ]
    lines, afters = exported(script)
    assert lines == [line(n)[:-1] for n in (1, 2, 3)]
    assert afters == [None, ["2-0"], ["2-0"]]


def test_without_any_line_it_gives_up_in_the_end():
    with pytest.raises(StoreUnavailable):
        exported([lines_of(b"", whole=False)], retry_seconds=0)


def test_a_final_error_is_raised_at_once():
    with pytest.raises(NotAllowed):
        exported([problem(403)])
    with pytest.raises(Refused):
        exported([response(200, {"events": []})])
    with pytest.raises(InvalidInput):
        exported([], "earliest")
