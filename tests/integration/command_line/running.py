"""Runs the command line: to its end, in the background, and on a pseudo-terminal."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from tests.servers import ROOT, wait_until

COMMAND = [sys.executable, "-m", "app"]
SECONDS = 50

_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def environment(url: str, **more: str) -> dict[str, str]:
    """Return the environment of a command that reaches a gateway."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "TAILRACE_URL": url, "TZ": "UTC", **more}


def run(
    url: str, *arguments: str, stdin: bytes = b"", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(url, **more),
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
    )


class Background:
    """A command that runs in the background. Its output goes to files."""

    def __init__(self, folder: Path, url: str, *arguments: str, **more: str):
        number = len(list(folder.glob("*.out")))
        self._out, self._err = folder / f"{number}.out", folder / f"{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments],
                env=environment(url, **more),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    @property
    def out(self) -> str:
        return self._out.read_text(errors="surrogateescape")

    @property
    def err(self) -> str:
        return self._err.read_text()

    def write(self, text: bytes) -> None:
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.out, f"{text!r} is printed: {self.err}")

    def end(self) -> int:
        """Close the input, and return the exit status."""
        self.process.stdin.close()
        return self.process.wait(SECONDS)


class Terminal:
    """A command on a pseudo-terminal, whose keyboard and screen the test has."""

    def __init__(
        self,
        url: str,
        *arguments: str,
        columns: int = 80,
        command: Sequence[str] = COMMAND,
        **more: str,
    ):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [*command, *arguments],
            env=environment(url, TERM="xterm", **more),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._master)

    @property
    def shown(self) -> str:
        """What was written to the screen, with its line ends and escape sequences."""
        return self._shown.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """The lines on the screen, without colours."""
        return _ESCAPE.sub("", self.shown).replace("\r\n", "\n").splitlines()

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.shown, f"{text!r} is shown in {self.shown!r}")

    def end(self) -> int:
        """Wait for the end of the command, and return its exit status."""
        status = self.process.wait(SECONDS)
        self._reader.join()
        return status

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the command has ended
            while piece := os.read(self._master, 65536):
                self._shown += piece


@contextlib.contextmanager
def closed_reader(url: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command whose output nobody reads any more."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environment(url), stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    os.close(reading)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
