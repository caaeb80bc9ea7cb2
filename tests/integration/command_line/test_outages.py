"""What every command says of a gateway that is away, and that it goes on when that is back."""

import pytest

from tests.client.fake_gateway import FakeGateway, response, run_state
from tests.integration.command_line.running import Background
from tests.servers import free_port, wait_until

BUSY = response(503, {"detail": "away", "stored": False}, retry_after="3")
EVENT = b'{"event_category":"a","event_action":"b"}\n'


@pytest.mark.parametrize(
    "command",
    [
        ["append", "1", "a.b"],
        ["request", "1", "cancel"],
        ["runs"],
        ["export", "1"],
        ["import", "--run", "1"],
        ["follow", "1"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_says_that_it_waits(folder, command):
    url = f"http://me:secret@127.0.0.1:{free_port()}/base"
    with Background(folder, url, *command, TAILRACE_TOKEN="token-of-mine") as waiting:
        waiting.write(EVENT)
        waiting.process.stdin.close()
        wait_until(lambda: "waiting for" in waiting.err, "it says so")
        [said] = waiting.err.splitlines()
    shown = url.replace("me:secret@", "")
    assert said == (
        f"tailrace: waiting for {shown}: no response from the gateway: Connection refused"
    )


def test_a_gateway_that_is_back_is_told_too(folder):
    with (
        FakeGateway([BUSY, response(200, run_state(run_id="1"))]) as gateway,
        Background(folder, gateway.url, "export", "1") as exporting,
    ):
        wait_until(lambda: "is back" in exporting.err, "it says so")
        assert exporting.err.splitlines()[:2] == [
            f"tailrace: waiting for {gateway.url}: 503: away",
            f"tailrace: {gateway.url} is back",
        ]
