"""What the command line says and exits with around the commands of the server."""

import os
import subprocess

import pytest

from app import __version__
from tests.command_line.test_terminal import is_harmless
from tests.integration.command_line.running import COMMAND, environment, run
from tests.servers import free_port

PUBLIC_KEY = (
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
    "-----END PUBLIC KEY-----"
)


@pytest.mark.parametrize("command", [["token", "--read", "a"], ["check"], ["serve"]])
def test_a_public_key_is_no_secret_and_that_is_one_line(gateway, command):
    done = run(gateway.url, *command, AUTH_SECRET=PUBLIC_KEY, PORT=str(free_port()))
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    expected = b"AUTH_SECRET: a secret must not be a public key or a certificate"
    if command != ["serve"]:
        assert done.returncode == 2
        assert done.stderr.splitlines() == [b"tailrace: " + expected]
    assert expected in done.stderr


@pytest.mark.parametrize(
    ("options", "environ", "status", "part"),
    [
        (["--read", "a"], {}, 2, b"AUTH_SECRET: must be set"),
        ([], {"AUTH_SECRET": "s" * 32}, 64, b"it grants nothing"),
        (["--read", "a", "--ttl", "5x"], {"AUTH_SECRET": "s" * 32}, 64, b"such as 15m"),
        (["--read", "a*b"], {"AUTH_SECRET": "s" * 32}, 64, b"a pattern must be"),
        (["--fly"], {"AUTH_SECRET": "s" * 32}, 64, b"--fly"),
    ],
)
def test_a_token_that_cannot_be_made_is_one_line(gateway, options, environ, status, part):
    done = run(gateway.url, "token", *options, **environ)
    assert done.returncode == status
    assert done.stdout == b""
    assert part in done.stderr
    assert b"Traceback" not in done.stderr


def test_help_lists_every_command_and_needs_no_server(gateway):
    done = run(gateway.url, "--help")
    assert done.stdout.startswith(b"usage: python -m app ")
    for name in (
        b"follow",
        b"append",
        b"pipe",
        b"runs",
        b"export",
        b"import",
        b"serve",
        b"token",
        b"capacity",
        b"archive",
    ):
        assert b"\n  " + name in done.stdout
    assert run(gateway.url, "--version").stdout.decode() == f"tailrace {__version__}\n"


@pytest.mark.parametrize(
    "command",
    ["follow", "append", "pipe", "request", "runs", "export", "import", "completion", "serve",
     "check", "token", "capacity", "archive", "restore"],
)  # fmt: skip
def test_every_command_has_a_help(gateway, command):
    done = run(gateway.url, command, "-h")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python -m app {command}".encode())


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize(
    "command", ["token --read a", "check", "--help", "--version", "follow --help", "completion zsh"]
)
def test_an_output_that_cannot_be_written_is_one_line(gateway, command, redirection):
    script = f"{' '.join(COMMAND)} {command} {redirection}"
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment(gateway.url, AUTH_SECRET="s" * 32),
        capture_output=True,
        timeout=50,
    )
    assert done.returncode == 74
    assert b"Traceback" not in done.stderr
    [*_, said] = done.stderr.decode().splitlines()
    assert said.startswith(("tailrace: cannot write to", "tailrace: standard output is closed"))


@pytest.mark.parametrize("command", ["--help", "follow --help", "token --read a"])
def test_an_output_that_nobody_reads_ends_a_command_quietly(gateway, command):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, *command.split()],
        env=environment(gateway.url, AUTH_SECRET="s" * 32),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=50,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_usage_error_names_the_help(gateway):
    said = run(gateway.url, "follow").stderr.decode()
    assert "Try 'python -m app follow --help' for help." in said
    assert said.startswith("usage: ")


def test_a_usage_error_shows_no_raw_bytes(gateway):
    done = run(gateway.url, "follow", "a", b"--from=\xff\x1b[2J")
    assert done.returncode == 64
    assert is_harmless(done.stderr.decode())
