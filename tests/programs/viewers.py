"""Many viewers of one run over TLS: `viewers.py URL CA RUN OVER_HTTP_1 OVER_HTTP_2`.

Some follow with AsyncClient, the others over HTTP/2 as a browser's pages do: many on a connection.
When the run has ended, it prints a JSON line for each viewer, with the sequences, the longest time
between two events, and how often the viewer connected.
"""

import asyncio
import json
import ssl
import sys
import time

from app.async_client import AsyncClient
from app.protocol.following import follow_run
from tests.programs.http_2 import Connection

VIEWERS_PER_CONNECTION = 20


class Viewer:
    """What one viewer has seen."""

    def __init__(self, kind: str) -> None:
        self.seen: dict = {"kind": kind, "sequences": [], "longest_silence": 0.0, "notices": []}
        self.seen |= {"refused": [], "connected": 0}
        self._last: float | None = None

    def take(self, event) -> None:
        """Note an event."""
        if event.category == "gateway":
            if event.action in ("gap", "reset"):
                self.seen["notices"].append(event.action)
            return
        now = time.monotonic()
        if self._last is not None:
            silence = now - self._last
            if silence > self.seen["longest_silence"]:
                self.seen["longest_silence"] = silence
                self.seen["after"] = event.sequence
        self._last = now
        self.seen["sequences"].append(event.sequence)


async def follow(client: AsyncClient, run_id: str) -> Viewer:
    viewer = Viewer("AsyncClient")
    async for event in client.follow(run_id, "latest"):
        viewer.take(event)
    return viewer


async def follow_over_http_2(connection: Connection, run_id: str) -> Viewer:
    """Follow with what decides for both clients, over a connection that is shared."""
    viewer = Viewer("HTTP/2")
    following = follow_run(run_id, "latest", None, None, (), ())
    pause: float | None = 0.0
    while pause is not None:
        await asyncio.sleep(pause)
        request = following.request()
        answer = connection.get(request.path, request.query, request.headers)
        viewer.seen["connected"] += 1
        try:
            status, headers = await anext(answer)
            if status not in (200, 204):
                viewer.seen["refused"].append(status)
                return viewer
            if not following.opened(status, headers.get("content-type", "")):
                return viewer
            async for piece in answer:
                for event in following.receive(piece):
                    viewer.take(event)
            pause = following.ended(True)
        except ConnectionError as error:
            viewer.seen["refused"].append(str(error))
            return viewer
    return viewer


async def main(url: str, authority: str, run_id: str, over_1: int, over_2: int) -> None:
    context = ssl.create_default_context(cafile=authority)
    needed = -(-over_2 // VIEWERS_PER_CONNECTION)
    connections = [await Connection.to(url, context) for _ in range(needed)]
    async with AsyncClient(url, verify=authority) as client:
        viewers = await asyncio.gather(
            *(follow(client, run_id) for _ in range(over_1)),
            *(follow_over_http_2(connections[n % needed], run_id) for n in range(over_2)),
        )
    for viewer in viewers:
        print(json.dumps(viewer.seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], *map(int, sys.argv[4:])))
