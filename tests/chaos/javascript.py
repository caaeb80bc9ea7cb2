"""Followers and producers that use the JavaScript client in Node.js."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.chaos.emitters import MAX_EMITTED, RETRY_SECONDS
from tests.chaos.followers import Follower
from tests.chaos.producers import Entry, Producer
from tests.processes import NODE

HERE = Path(__file__).parent
# Of a line, which has an event with its padding.
MAX_LINE_BYTES = 2**20


@contextlib.asynccontextmanager
async def running_node(script: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a script with pipes until the block ends."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        NODE, HERE / script, *arguments, stdin=pipe, stdout=pipe, limit=MAX_LINE_BYTES
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class NodeFollower(Follower):
    """Follows one run, or several on one stream. `parts` has what it was sent of each.

    A cut kills the process. The next one goes on after the last whole line.
    """

    def __init__(self, number: int, port: int, runs: Sequence[str], seed: int):
        super().__init__(number, port, f"{len(runs)} runs", seed)
        self.behaviour = "steady"
        self.parts = {run: Follower(number, port, run, seed) for run in runs}
        for part in self.parts.values():
            part.reconnects = True
            part.name = f"JavaScript {part.name}, with {len(runs) - 1} others"
        self._process: asyncio.subprocess.Process | None = None

    async def follow(self) -> None:
        while True:
            cursors = {run: part.cursor or "earliest" for run, part in self.parts.items()}
            url = f"http://127.0.0.1:{self._port}"
            async with running_node("follow.mjs", url, json.dumps(cursors)) as self._process:
                await self._read(self._process)

    def cut(self) -> None:
        """Kill the process."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while (line := await process.stdout.readline()).endswith(b"\n"):
            event = json.loads(line)
            part = self.parts[event["run_id"]]
            if event["event"]["category"] == "gateway":
                action = event["event"]["action"]
                part.record_control(f"gateway.{action}")
                part.cursor = None if action == "reset" else part.cursor
            else:
                part.record(event)
                part.cursor = event["id"]
            await self._read_slowly(len(line))
        if await process.wait() >= 0:  # nobody has killed it, and no run has ended
            self.wrong.append(f"{self.name}: exited with {process.returncode}")
            await asyncio.sleep(1)


class NodeEmitter(Producer):
    """Emits to one run with an appender, closes it, and goes on with another run and appender."""

    kind = "appender, JavaScript"

    def __init__(self, number: int, runs: list[str], seed: int, url: str):
        super().__init__(number, runs, seed)
        self._url = url

    async def _produce(self, count: int) -> None:
        async with running_node("emit.mjs", self._url, str(RETRY_SECONDS)) as process:
            first = 0
            while first < count:
                end = min(count, first + self._random.randint(1, MAX_EMITTED))
                if not await self._emit(process, self._choose_run(), range(first, end)):
                    return
                first = end

    async def _emit(self, process: asyncio.subprocess.Process, run: str, numbers: range) -> bool:
        """Emit events, and note them. Returns whether all are stored."""
        assert process.stdin is not None
        assert process.stdout is not None
        for number in numbers:
            await asyncio.sleep(self._due_in(number))
            line = json.dumps({"run": run, "data": self._data(number)})
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
        process.stdin.write(b"{}\n")
        answer = json.loads(await process.stdout.readline() or b"{}")
        if answer.get("stored") != len(numbers):
            self.wrong.append(f"{answer} of {len(numbers)} events")
            return False
        entries = self.acknowledged[run]
        entries += [Entry(None, None, self.number, number) for number in numbers[:-1]]
        entries.append(Entry(answer["lastId"], answer["lastSequence"], self.number, numbers[-1]))
        return True
