"""How the command line reaches a gateway: URL, token, certificates, and how failures read."""

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import trustme

from app.command_line.connection import Connection
from app.command_line.output.exit_status import status_of
from app.command_line.output.failures import describe
from app.protocol.options import shown_url
from app.streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    KeyReused,
    LogFull,
    NotAllowed,
    NotALog,
    Refused,
    RunEnded,
    StoreUnavailable,
    UnexpectedSequence,
)
from tests.client.fake_gateway import FakeGateway, problem, response, run_state
from tests.servers import free_port

STATE = response(200, run_state())


@pytest.fixture(autouse=True)
def logger() -> Iterator[None]:
    """Restore the logger that a client of the command line changes."""
    logger = logging.getLogger("tailrace.client")
    before, level = [*logger.handlers], logger.level
    yield
    logger.handlers[:] = before
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch) -> None:
    monkeypatch.delenv("TAILRACE_TOKEN", raising=False)


def test_a_path_prefix_stays_before_every_path():
    with FakeGateway([STATE]) as gateway:
        Connection(f"{gateway.url}/events/", None, None).client().state(1)
    assert gateway.requests[0].path == "/events/runs/1"


def test_the_file_counts_before_the_variable_and_is_read_again(monkeypatch, tmp_path):
    monkeypatch.setenv("TAILRACE_TOKEN", "of-the-variable")
    file = tmp_path / "token"
    file.write_text("first\n")

    def renewed(request) -> bytes:
        file.write_text("second\n")
        return problem(401)

    with FakeGateway([renewed, STATE, STATE]) as gateway:
        Connection(gateway.url, str(file), None).client().state(1)
        Connection(gateway.url, None, None).client().state(1)
    sent = [request.headers["authorization"] for request in gateway.requests]
    assert sent == ["Bearer first", "Bearer second", "Bearer of-the-variable"]


def test_a_file_that_has_gone_is_an_outage(tmp_path):
    client = Connection("http://127.0.0.1:1", str(tmp_path / "gone"), None).client(0)
    with pytest.raises(StoreUnavailable, match="cannot read the token file"):
        client.state(1)


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "token").write_text("\n")
    client = Connection("http://127.0.0.1:1", str(tmp_path / "token"), None).client(0)
    with pytest.raises(StoreUnavailable, match=f"the token file {tmp_path}/token is empty"):
        client.state(1)


@pytest.mark.parametrize(("url", "name"), [("ftp://a", "--url"), ("http://[", "--url")])
def test_a_url_that_cannot_be_used_is_a_usage_error(url, name):
    with pytest.raises(click.UsageError, match=name):
        Connection(url, None, None).client()


def test_a_token_that_cannot_be_sent_is_a_usage_error_that_does_not_show_it(monkeypatch):
    monkeypatch.setenv("TAILRACE_TOKEN", "two words")
    with pytest.raises(click.UsageError, match="TAILRACE_TOKEN") as refused:
        Connection("http://127.0.0.1", None, None).client()
    assert "two words" not in str(refused.value)


def test_the_certificate_is_verified_with_the_bundle_that_is_named(tmp_path: Path):
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with FakeGateway([STATE], tls=context) as gateway:
        assert Connection(gateway.url, None, str(bundle)).client().state(1)
        with pytest.raises(StoreUnavailable) as refused:
            Connection(gateway.url, None, None).client(0).state(1)
    assert describe(refused.value).startswith("the certificate of the gateway is not trusted: ")
    assert describe(refused.value).endswith("; see --ca")


def test_a_connection_that_is_refused_reads_in_a_few_words():
    with pytest.raises(StoreUnavailable) as refused:
        Connection(f"http://127.0.0.1:{free_port()}", None, None).client(0).state(1)
    assert describe(refused.value) == "no response from the gateway: Connection refused"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:secret@host/a", "http://host/a"),
        ("https://me:a@b@host:1", "https://host:1"),
        ("http://host/a@b", "http://host/a@b"),
    ],
)
def test_a_notice_does_not_show_the_password_of_a_url(url, shown):
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("run_id", "so"), 64),
        (InvalidEvent("data", "so"), 65),
        (EventTooLarge("data", "so"), 65),
        (RunEnded("so"), 65),
        (KeyReused("so"), 65),
        (UnexpectedSequence(5), 65),
        (NotALog("so"), 65),
        (LogFull("so"), 65),
        (Refused(404, "so"), 65),
        (StoreUnavailable("so"), 69),
        (NotAllowed(401, "so"), 77),
        (NotAllowed(403, "so"), 77),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_has_an_exit_status(error, status):
    assert status_of(error) == status


def test_a_refusal_names_the_id_of_its_request():
    error = RunEnded("run 1 ended")
    assert describe(error) == "run 1 ended"
    error.request_id = "a-1"
    assert describe(error) == "run 1 ended (request a-1)"
