"""Many Python clients follow the answers of runs: `follow.py RUNS CLIENTS TOKEN BREAKS`.

RUNS is JSON: `{run: {url, kinds}, …}`.

Each prints a JSON line with what it got when it has ended. The program runs in the environment of
tests/field/requirements-clients.txt, where there is no code of the app.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable

import httpx
from langgraph_sdk.client import LangGraphClient
from openai import APIConnectionError, AsyncOpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

LAST = ("response.completed", "response.failed", "response.incomplete", "error")

_stream_event: TypeAdapter = TypeAdapter(ResponseStreamEvent)


def digest(chunks: list) -> dict:
    """Count and digest chunks, so that every one is compared and few bytes are printed."""
    text = json.dumps(chunks, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    hash = hashlib.sha256(text.encode()).hexdigest()
    return {"count": len(chunks), "digest": hash, "last": chunks[-1] if chunks else None}


def openai_clients(token: str, breaks: int) -> Callable:
    shared = AsyncOpenAI(api_key=token)

    async def follow(base: str, run: str, got: dict) -> dict:
        client = shared.with_options(base_url=f"{base}/compat/openai/v1")
        chunks: list[dict] = []
        while not chunks or chunks[-1]["type"] not in LAST:
            after = {"starting_after": chunks[-1]["sequence_number"]} if chunks else {}
            try:
                stream = await client.responses.retrieve(run, stream=True, **after)
                async for event in stream:
                    chunks.append(event.to_dict())  # noqa: PERF401 - what came before a break counts
                break
            except (APIConnectionError, httpx.TransportError):
                if got["breaks"] == breaks:
                    raise
                got["breaks"] += 1
        for chunk in chunks:  # the SDK itself does not look whether they are what they say
            _stream_event.validate_python(chunk)
        return digest(chunks)

    return follow


def langgraph_clients(token: str, breaks: int) -> Callable:
    headers = {"Authorization": f"Bearer {token}"}
    limits = httpx.Limits(max_connections=None)
    transport = httpx.AsyncHTTPTransport(limits=limits)

    async def follow(base: str, run: str, got: dict) -> dict:
        url = f"{base}/compat/langgraph"
        http = httpx.AsyncClient(base_url=url, transport=transport, headers=headers)
        runs = LangGraphClient(http).runs
        stream = runs.join_stream("thread", run, last_event_id="-1")
        return digest([[part.event, part.data] async for part in stream])

    return follow


KINDS = {"openai-python": openai_clients, "langgraph-python": langgraph_clients}


async def main(runs: str, clients: str, token: str, breaks: str) -> None:
    async def follow_one(follow: Callable, url: str, run: str, kind: str, number: int) -> None:
        got = {"run": run, "kind": kind, "number": number, "breaks": 0, "error": None}
        try:
            got |= await follow(f"{url}/{kind}-{number}", run, got)
        except Exception as error:
            got["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(got), flush=True)

    kinds = {kind: make(token, int(breaks)) for kind, make in KINDS.items()}
    await asyncio.gather(
        *(
            follow_one(kinds[kind], each["url"], run, kind, number)
            for run, each in json.loads(runs).items()
            for kind in each["kinds"]
            for number in range(int(clients))
        )
    )
    print(json.dumps({"what": "closed"}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
