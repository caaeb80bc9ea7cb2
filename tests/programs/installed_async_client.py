"""Appends to a run and follows it with the installed AsyncClient: URL RUN_ID."""

import asyncio
import sys

from tailrace.async_client import AsyncClient


async def main(url: str, run_id: str) -> None:
    async with AsyncClient(url, retry_seconds=5) as client:
        async with client.appender(run_id) as run:
            await run.emit("lifecycle", "started")
            await run.emit("llm", "stream", {"content": "Hello"})
            await run.emit("lifecycle", "completed")
        async for event in client.follow(run_id):
            if event.category != "gateway":
                print(f"{event.category}.{event.action}")


asyncio.run(main(*sys.argv[1:]))
