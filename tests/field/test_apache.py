"""What the documented configuration of Apache is for."""

from collections.abc import Iterator

from app.client import Client
from tests.clients import Stream
from tests.field.proxies import Apache, skip_if_missing
from tests.field.traffic import EVENT
from tests.raw_http import stream_path
from tests.servers import wait_until

pytestmark = skip_if_missing(Apache)


def test_apache_holds_lines_back_without_the_variable(brisk_gateway, store, run_id, tmp_path):
    shown = Apache.documented()
    without = "".join(line for line in shown.splitlines(True) if "nonblocking" not in line)
    assert without != shown

    def events() -> Iterator[dict]:
        yield EVENT
        with Stream(f"{brisk_gateway.url}{stream_path(run_id)}") as stream:
            wait_until(lambda: stream.comments.count("heartbeat") >= 2, "heartbeats")
        assert not store.state(run_id).exists
        yield EVENT

    with Apache(tmp_path, brisk_gateway.port, without) as proxy:
        assert Client(proxy.url).stream(run_id, events()).stored == 2


def test_apache_lets_a_producer_be_silent(brisk_gateway, store, run_id, tmp_path):
    """Debian's Apache ends a request whose body takes more than 20 s, and here more than 1 s."""

    def events() -> Iterator[dict]:
        yield EVENT
        with Stream(f"{brisk_gateway.url}{stream_path(run_id)}") as stream:
            wait_until(lambda: stream.comments.count("heartbeat") >= 3, "heartbeats")
        yield EVENT

    with Apache(tmp_path, brisk_gateway.port) as proxy:
        assert Client(proxy.url).stream(run_id, events()).stored == 2
