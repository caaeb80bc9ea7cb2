"""The client reads the events of a run page by page."""

import pytest

from app.client import Client
from tests.client.fake_gateway import FakeGateway, response


def page(first: int, count: int, following: str | None) -> bytes:
    events = [
        {"id": f"{n}-0", "run_id": "1", "sequence": n, "timestamp": None, "data": {"n": n},
         "source": None, "event": {"category": "llm", "action": "stream"}}
        for n in range(first, first + count)
    ]  # fmt: skip
    return response(200, {"events": events, "next": following})


def test_pages_are_read_until_the_last_one():
    script = [page(1, 2, "9-0"), page(1, 0, "10-0"), page(11, 1, None)]
    with FakeGateway(script) as gateway, Client(gateway.url) as client:
        events = client.get_events(1, categories=["llm"], actions=("stream", "x"))
    assert [event.id for event in events] == ["1-0", "2-0", "11-0"]
    assert [event.data for event in events] == [{"n": 1}, {"n": 2}, {"n": 11}]
    cursors = gateway.of_requests(lambda request: request.query.get("after"))
    assert cursors == [None, ["9-0"], ["10-0"]]
    assert gateway.requests[2].query["action"] == ["stream", "x"]


def test_pages_stop_at_the_limit_and_can_go_backwards():
    with FakeGateway([page(1, 1000, "5-0"), page(1, 1, "4-0")]) as gateway:
        events = Client(gateway.url).get_events(1, limit=1001, descending=True)
        assert Client(gateway.url).get_events(1, limit=0) == []
    assert len(events) == 1001
    assert gateway.of_requests(lambda request: request.query["limit"]) == [["1000"], ["1"]]
    assert gateway.requests[1].query["before"] == ["5-0"]


@pytest.mark.parametrize("repeats", [50, 100, 330])
def test_data_nested_deeper_than_an_append_allows_is_read(repeats):
    """Another program can XADD it."""
    deep = b'[{},[],{"a":[' * repeats + b'"\\"",1.5,null' + b']},"b"]' * repeats
    document = page(1, 1, None).partition(b"\r\n\r\n")[2].replace(b'{"n": 1}', deep)
    with FakeGateway([response(200, document)]) as gateway:
        [event] = Client(gateway.url).get_events(1)
    assert event.data_json == deep
