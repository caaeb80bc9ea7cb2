"""What the commands do with a server that is no gateway: status 65, one line, no traceback."""

import pytest

from tests.client.fake_gateway import FakeGateway, Request, response, run_state
from tests.integration.command_line.running import run

EVENT = b'{"id":"1-1","event_category":"a","event_action":"b"}'


def answers(state: object, lines: bytes = b"", runs: object = ()) -> FakeGateway:
    """Return a server with this state of a run, these lines of its history, and these runs."""

    def answer(request: Request) -> bytes:
        if request.path.endswith("/stream"):
            return b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
        if request.path.endswith("/events"):
            return response(200, lines, content_type="application/x-ndjson")
        if request.path == "/runs":
            return response(200, {"runs": runs, "next": None})
        return response(200, state)

    return FakeGateway([answer])


@pytest.mark.parametrize(
    "state",
    [
        run_state(ended=True),
        run_state(ended=False),
        run_state(
            ended=True,
            last_event={"timestamp": None, "event": {"category": None, "action": None}},
        ),
    ],
)
def test_an_end_that_nobody_knows_is_not_that_of_a_failed_run(state):
    with answers(state) as other:
        done = run(other.url, "follow", "1")
    assert done.stderr.decode() == "tailrace: the gateway does not say how the run 1 has ended\n"
    assert done.returncode == 65


@pytest.mark.parametrize(
    ("command", "server"),
    [
        (["follow", "1"], {"state": {"ended": True}}),
        (["export", "1"], {"state": {}}),
        (["import", "--run", "1"], {"state": {}}),
        (["export", "1"], {"state": run_state(length=1), "lines": b'{"id":"1-1" garbage\n'}),
        (["export", "1"], {"state": run_state(length=1), "lines": b'{"id":"1-1"}\n'}),
        (["runs"], {"state": None, "runs": [5, {}]}),
        (["runs"], {"state": None, "runs": [run_state(last_event=5)]}),
    ],
)
def test_a_server_that_is_no_gateway_is_a_refusal(command, server):
    with answers(**server) as other:
        done = run(other.url, *command, stdin=EVENT)
    [said] = done.stderr.decode().splitlines()
    assert "not from a Tailrace gateway" in said
    assert done.returncode == 65
