"""The history by real connections: lines that break off, and waits that a stop ends."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.servers import RedisServer, wait_until

LINES = {"Accept": "application/x-ndjson"}
# More than the buffers of a connection hold.
LARGE = "x" * 100_000


def test_a_stop_ends_a_wait(start_gateway, run_id):
    gateway = start_gateway()
    url = f"{gateway.url}/runs/{run_id}/events?wait=50"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(requests.get, url, timeout=60)
        wait_until(lambda: f"long poll opened run={run_id}" in gateway.log.read_text(), "it waits")
        assert gateway.stop(signal.SIGTERM) == 0
        assert waiting.result(30).json() == {"events": [], "next": None, "ended": False}


@pytest.mark.parametrize("cause", ["Redis", "stop"])
def test_lines_that_break_off_end_without_the_end_of_the_body(
    start_gateway, tmp_path, run_id, cause
):
    with RedisServer(tmp_path) as redis_server:
        gateway = start_gateway(redis_server.url)
        url = f"{gateway.url}/runs/{run_id}/events"
        body = [{"event_category": "llm", "event_action": "stream", "data": LARGE}] * 30
        for _ in range(10):
            assert requests.post(url, json=body, timeout=20).status_code == 201
        with requests.get(url, headers=LINES, stream=True, timeout=60) as response:
            pieces = response.iter_content(100_000)
            received = [next(pieces)]
            if cause == "Redis":
                redis_server.stop()
            else:
                gateway.process.send_signal(signal.SIGTERM)
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                received += pieces
        assert b"".join(received).count(b"\n") < 300
    assert "Traceback" not in gateway.log.read_text()
