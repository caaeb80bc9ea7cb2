"""Follows a stream with one of the Python clients of SSE: `follow.py CLIENT URL OUTPUT`.

It appends each message to the file OUTPUT as a JSON line, and ends when the run has completed.
It runs in the environment of requirements-clients.txt, where there is no code of the app.
"""

import asyncio
import contextlib
import importlib.util
import json
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

PAUSE_SECONDS = 0.2


class Message(NamedTuple):
    id: str | None
    name: str | None
    data: str


class Cursor:
    """The last id, for clients that do not resume by themselves."""

    def __init__(self) -> None:
        self.id: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Last-Event-ID": self.id} if self.id else {}


def httpx_sse(url: str, cursor: Cursor) -> Iterator[Message]:
    import httpx
    from httpx_sse import connect_sse

    with (
        httpx.Client(timeout=30) as client,
        connect_sse(client, "GET", url, headers=cursor.headers) as source,
    ):
        for sse in source.iter_sse():
            yield Message(sse.id, sse.event, sse.data)


def sseclient(url: str, cursor: Cursor) -> Iterator[Message]:
    """Read with the package sseclient; sseclient-py has the same name, and hides it."""
    path = Path(sysconfig.get_path("purelib"), "sseclient.py")
    spec = importlib.util.spec_from_file_location("btubbs_sseclient", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for message in module.SSEClient(url):
        yield Message(message.id, message.event, message.data)


def sseclient_py(url: str, cursor: Cursor) -> Iterator[Message]:
    import requests
    from sseclient import SSEClient

    with requests.get(url, stream=True, headers=cursor.headers, timeout=30) as response:
        for message in SSEClient(response).events():
            yield Message(message.id, message.event, message.data)


def requests_sse(url: str, cursor: Cursor) -> Iterator[Message]:
    from requests_sse import EventSource

    with EventSource(url, timeout=30) as source:
        for message in source:
            yield Message(message.last_event_id, message.type, message.data)


def aiohttp_sse_client2(url: str, cursor: Cursor) -> Iterator[Message]:
    from aiohttp_sse_client2.client import EventSource

    async def messages() -> AsyncIterator[Message]:
        async with EventSource(url, headers=cursor.headers) as source:
            async for message in source:
                yield Message(message.last_event_id, message.type, message.data)

    return synchronous(messages())


def aiosseclient(url: str, cursor: Cursor) -> Iterator[Message]:
    from aiosseclient import aiosseclient

    async def messages() -> AsyncIterator[Message]:
        async for message in aiosseclient(url, last_id=cursor.id):
            yield Message(message.id, message.event, message.data)

    return synchronous(messages())


def openai(url: str, cursor: Cursor) -> Iterator[Message]:
    from openai import OpenAI, Stream

    return decoded(OpenAI, Stream[object], url, cursor)


def anthropic(url: str, cursor: Cursor) -> Iterator[Message]:
    from anthropic import Anthropic, Stream

    return decoded(Anthropic, Stream[object], url, cursor)


def decoded(kind: type, stream_kind: type, url: str, cursor: Cursor) -> Iterator[Message]:
    """Read with the client of a model's API, which gives the JSON and no id."""
    parts = urlsplit(url)
    with (
        kind(api_key="none", base_url=f"{parts.scheme}://{parts.netloc}", timeout=30) as client,
        client.get(
            parts.path,
            cast_to=object,
            options={"headers": cursor.headers},
            stream=True,
            stream_cls=stream_kind,
        ) as stream,
    ):
        for event in stream:
            # That of `gateway.caught_up` is in its `id:` line only.
            yield Message(event["id"] or cursor.id, None, json.dumps(event))


def langgraph_sdk(url: str, cursor: Cursor) -> Iterator[Message]:
    from langgraph_sdk import get_sync_client

    parts = urlsplit(url)
    with get_sync_client(url=f"{parts.scheme}://{parts.netloc}", api_key=None) as client:
        for part in client.http.stream(parts.path, "GET", headers=cursor.headers):
            yield Message(part.id, part.event, "" if part.data is None else json.dumps(part.data))


def synchronous(messages: AsyncIterator[Message]) -> Iterator[Message]:
    with asyncio.Runner() as runner, contextlib.suppress(StopAsyncIteration):
        try:
            while True:
                yield runner.run(anext(messages))
        finally:
            runner.run(messages.aclose())


CLIENTS: dict[str, Callable[[str, Cursor], Iterator[Message]]] = {
    "httpx-sse": httpx_sse,
    "sseclient": sseclient,
    "sseclient-py": sseclient_py,
    "requests-sse": requests_sse,
    "aiohttp-sse-client2": aiohttp_sse_client2,
    "aiosseclient": aiosseclient,
    "openai": openai,
    "anthropic": anthropic,
    "langgraph-sdk": langgraph_sdk,
}


def main(client: str, url: str, output: str) -> None:
    cursor = Cursor()
    with Path(output).open("w", encoding="utf-8", buffering=1) as lines:
        while True:
            try:
                for message in CLIENTS[client](url, cursor):
                    cursor.id = message.id or cursor.id
                    lines.write(json.dumps(message._asdict()) + "\n")
                    if '"action":"completed"' in message.data.replace(" ", ""):
                        return
            except Exception as error:  # each client has its own for a connection that broke
                print(repr(error), file=sys.stderr)
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
