"""The rights that docs/redis.md names, and a round through all that needs them."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import redis
import requests
from redis.utils import str_if_bytes

from app.auth.tokens import make_token
from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.documents import blocks_of
from tests.servers import ROOT, GatewayServer, RedisServer, wait_until

REDIS_MD = ROOT / "docs" / "redis.md"
SECRET = "a secret of more than thirty-two bytes"
EVENT = {"event_category": "llm", "event_action": "stream", "data": 1}
BEGIN = {"event_category": "lifecycle", "event_action": "started"}


# What the document says may be left out, for less.
OPTIONAL = {
    "+info",
    "+client|id",
    "+client|unblock",
    "+ping",
    "+select",
    "+del",
    "+expire",
    "+scan",
    "+wait",
}


def acl_of(user: str) -> list[str]:
    """Return the rules of a user, as the document names them."""
    codes = [block.code for block in blocks_of(REDIS_MD)]
    [code] = [each for each in codes if each.startswith(f"ACL SETUSER {user} on ")]
    return code.split()[3:]


def acl_of_cluster() -> list[str]:
    """Return the rules that the user of a gateway needs beside those, in a cluster."""
    [code] = [block.code for block in blocks_of(REDIS_MD) if "+cluster|slots" in block.code]
    return code.split()[3:]


def set_user(client: redis.Redis, user: str, rules: list[str]) -> None:
    client.execute_command("ACL", "SETUSER", user, "reset", *rules)
    client.execute_command("ACL", "LOG", "RESET")


def url_of(user: str, server: RedisServer, database: int = 0) -> str:
    return f"redis://{user}:password@127.0.0.1:{server.port}/{database}"


def refused(client: redis.Redis) -> set[str]:
    """Return what users were refused since their rights were set: commands, keys, channels."""
    return {str_if_bytes(each["object"]).lower() for each in client.acl_log()}


def use_everything(
    gateway: GatewayServer,
    store: EventStore,
    client: redis.Redis,
    is_enough: Callable[[], bool] = lambda: False,
) -> None:
    """Send a gateway with authentication each kind of request, and wait for what it does by itself.

    `client` may do anything. Nothing is asserted of the answers: what was refused is in the
    server's log, and may be enough.
    """
    token = make_token(SECRET, "tailrace", {"admin": ["*"]}, 600, aud="tailrace", sub="ada")
    headers = {"Authorization": f"Bearer {token}"}

    def send(method: str, path: str, **more: Any) -> requests.Response:
        more["headers"] = headers | more.get("headers", {})
        return requests.request(method, f"{gateway.url}{path}", timeout=20, **more)

    client.xadd("run:others:events", {"event_category": "llm", "event_action": "stream"})
    client.xadd("run:finds:events", {"event_category": "llm", "event_action": "stream"})
    with ExitStack() as stack:
        for path in ("/runs/a/events/stream", "/events/stream?run=a&run=b", "/runs/stream"):
            stack.enter_context(Stream(f"{gateway.url}{path}", headers))
        send("POST", "/runs/a/events", json=BEGIN)
        stack.enter_context(Stream(f"{gateway.url}/runs/c/events/stream", headers))  # wakes
        for key in ("one", "two", "one"):
            send("POST", "/runs/a/events", json=EVENT, headers={"Idempotency-Key": key})
        send("POST", "/runs/b/events", json=[EVENT] * 3)
        send("POST", "/runs/c/events", data=iter([json.dumps(EVENT).encode() + b"\n"] * 3),
             headers={"Content-Type": "application/x-ndjson"})  # fmt: skip
        send("POST", "/runs/a/requests", json={"action": "cancel"})
        send("POST", "/runs/lost/events", json=EVENT | {"lease_seconds": 1})
        lines = {"Accept": "application/x-ndjson"}
        for path in ("", "/events", "/events?after=0-1", "/events?order=desc", "/events?wait=1"):
            send("GET", f"/runs/a{path}")
        send("GET", "/runs/a/events", headers=lines)
        send("GET", "/runs/others/events")
        for path in ("/runs", "/runs?state=ended", "/readyz", "/openapi.json"):
            send("GET", path)
        send("POST", "/session")
        send("POST", "/revocations", json={"jti": "x"})
        send("POST", "/runs/a/events", json=BEGIN | {"event_action": "completed"})
        send("DELETE", "/runs/b/events")
        store.set_expire("a")
        store.delete("others")
        store.check_server()
        client.delete("run:others:events")

        def is_seen_to() -> bool:
            """Whether the lease has run out, and the census has looked, if it may."""
            if is_enough():
                return True
            listed = {each["run_id"]: each for each in send("GET", "/runs").json().get("runs", ())}
            return "finds" in listed and listed["lost"]["state"] == "lost"

        wait_until(is_seen_to, "the census has found the run of others", 60)
