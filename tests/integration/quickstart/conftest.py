"""The quickstart's snippets, on a Redis server and a gateway that only these tests use."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from app.streaming.event_store import EventStore
from tests.servers import GatewayServer, RedisServer, wait_until

SNIPPETS = (Path(__file__).parent / "snippets.md").read_text(encoding="utf-8")


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Start a server for the quickstart, which uses run 1 and deletes all logs."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="package")
def gateway(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    """Start a gateway whose clients reconnect quickly."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with GatewayServer(server.url, log, RETRY_MS=50) as gateway:
        yield gateway


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port, decode_responses=True) as client:
        yield client


@pytest.fixture
def store(server: RedisServer) -> EventStore:
    return EventStore(server.url)


@pytest.fixture(autouse=True)
def _empty_redis(gateway: GatewayServer, client: redis.Redis) -> None:
    """Wait until no stream is open, and delete everything."""

    def all_streams_ended() -> bool:
        log = gateway.log.read_text()
        return log.count("stream opened") == log.count("stream ended")

    wait_until(all_streams_ended, "the streams of the previous test have ended")
    client.flushall()


@pytest.fixture
def snippet(server: RedisServer, gateway: GatewayServer) -> Callable[..., str]:
    """Return a function that finds a snippet by its section, with hosts and ports replaced."""

    def find(number: str, block: int = 0) -> str:
        section = re.search(rf"^### {number} .*?(?=^###|\Z)", SNIPPETS, re.DOTALL | re.MULTILINE)
        code = re.findall(r"^```\w*\n(.*?)^```$", section[0], re.DOTALL | re.MULTILINE)[block]
        for theirs, ours in (
            ("localhost:6379", f"127.0.0.1:{server.port}"),
            ("host='localhost', port=6379", f"host='127.0.0.1', port={server.port}"),
            ("localhost:8082", f"127.0.0.1:{gateway.port}"),
            ("from src.", "from app."),
        ):
            code = code.replace(theirs, ours)
        return code

    return find
