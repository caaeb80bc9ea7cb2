"""The log of revocations, followed on a real server that a test may break."""

import gc
import json
import threading

import pytest
import redis

from app.auth import revocation_log
from app.auth.grants import Grants
from app.auth.identity import Identity
from app.auth.revocation_log import REVOCATIONS, RevocationLog
from app.streaming.errors import StoreUnavailable
from app.streaming.redis.server import Server
from tests.servers import RedisServer, wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(revocation_log, "MAX_BLOCK_SECONDS", 0.1)
    monkeypatch.setattr(revocation_log, "MAX_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(revocation_log, "FIRST_READ_SECONDS", 20.0)


def followers() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "tailrace-revocations"}


@pytest.fixture
def server(tmp_path):
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def client(server):
    before = followers()

    def is_left() -> bool:
        gc.collect()
        return followers() <= before

    with server.client() as client:
        yield client
        wait_until(is_left, "no thread of the test would complain of the end of its server")


@pytest.fixture
def engine(client):
    engine = Server(client)
    yield engine
    engine.close()


def followed(engine: Server) -> tuple[RevocationLog, list[int]]:
    """Return a log that is followed, and a list that grows with each change."""
    changes: list[int] = []
    log = RevocationLog(engine, lambda: changes.append(1))
    log.wait_until_read()
    return log, changes


def is_revoked(log: RevocationLog, token_id: str) -> bool:
    return log.revocations.include(Identity("u", Grants({}), "u", 1.0, token_id))


def test_what_was_revoked_before_is_known_before_anybody_is_let_in(client, engine):
    for number in range(revocation_log.READ_COUNT + 1):
        client.xadd(REVOCATIONS, {"revocation": json.dumps({"jti": str(number)})})
    log, _ = followed(engine)
    assert is_revoked(log, "0")
    assert is_revoked(log, str(revocation_log.READ_COUNT))


def test_each_log_of_a_server_hears_of_what_another_one_revokes(engine):
    logs = [followed(engine) for _ in range(3)]
    logs[0][0].append({"jti": "t1"})
    for log, changes in logs:
        wait_until(lambda log=log: is_revoked(log, "t1"), "the token is revoked")
        wait_until(lambda changes=changes: changes, "it was told")


GARBAGE = {
    "another field": {"a": "b"},
    "no JSON": {"revocation": "{"},
    "another value": {"revocation": "[]"},
    "a number": {"revocation": "1" * 5000},
    "nested": {"revocation": "[" * 100_000},
    "not UTF-8": {"revocation": b"\xff"},
    "no time": {"revocation": '{"sub": "u"}'},
    "NaN": {"revocation": '{"sub": "u", "before": NaN}'},
    "a name that is too long": {"revocation": json.dumps({"jti": "a" * 1000})},
}


@pytest.mark.parametrize("fields", GARBAGE.values(), ids=GARBAGE)
def test_what_others_write_there_is_passed_over(client, caplog, fields, engine):
    log, _ = followed(engine)
    client.xadd(REVOCATIONS, fields)
    log.append({"jti": "t1"})
    wait_until(lambda: is_revoked(log, "t1"), "the token is revoked")
    assert not log.revocations.include(Identity("u", Grants({}), "u", 1.0))
    assert len([each for each in caplog.records if "no revocation" in each.getMessage()]) == 1
    assert not [each for each in caplog.records if each.exc_info]


def test_a_restart_of_the_server_loses_nothing(server, caplog, engine):
    caplog.set_level("INFO", "tailrace.auth")
    log, _ = followed(engine)
    log.append({"jti": "t1"})
    wait_until(lambda: is_revoked(log, "t1"), "the token is revoked")
    server.stop()
    with pytest.raises(StoreUnavailable):
        log.append({"jti": "t2"})
    wait_until(lambda: "cannot be read" in caplog.text, "the log is away")
    server.start()
    wait_until(lambda: "read again" in caplog.text, "the log is back")
    assert is_revoked(log, "t1")
    log.append({"jti": "t3"})
    wait_until(lambda: is_revoked(log, "t3"), "the token is revoked")
    messages = [each for each in caplog.records if each.name == "tailrace.auth"]
    assert len(messages) == 2, "a change is logged once"


def test_a_log_whose_ids_are_lower_is_read_from_its_beginning(client, engine):
    """A server has lost the log, and its clock is behind."""
    client.xadd(REVOCATIONS, {"revocation": json.dumps({"jti": "t1"})}, id="9999999999999-0")
    log, _ = followed(engine)
    client.delete(REVOCATIONS)
    client.xadd(REVOCATIONS, {"revocation": json.dumps({"jti": "t2"})})
    wait_until(lambda: is_revoked(log, "t2"), "the token is revoked")
    assert is_revoked(log, "t1")


def test_a_log_of_which_an_older_state_is_restored_is_read_from_its_beginning(client, engine):
    """What was revoked since has lower ids and higher ones than what was lost."""

    def revoke(commands: redis.Redis, token_id: str, entry_id: str) -> None:
        fields = {"revocation": json.dumps({"jti": token_id})}
        commands.xadd(REVOCATIONS, fields, id=entry_id)

    revoke(client, "t1", "100-0")
    backup = client.dump(REVOCATIONS)
    revoke(client, "lost", "1000-0")
    log, _ = followed(engine)
    with client.pipeline(transaction=True) as restoring:
        restoring.restore(REVOCATIONS, 0, backup, replace=True)
        revoke(restoring, "t2", "500-0")
        revoke(restoring, "t3", "2000-0")
        restoring.client_kill_filter(_type="normal", skipme=True)
        restoring.execute()
    for each in ("t2", "t3"):
        wait_until(lambda each=each: is_revoked(log, each), "the token is revoked")
    assert is_revoked(log, "lost"), "a worker that runs keeps it"


def test_while_the_key_is_no_stream_nobody_is_let_in(client, caplog, monkeypatch, engine):
    monkeypatch.setattr(revocation_log, "FIRST_READ_SECONDS", 0.2)
    client.set(REVOCATIONS, "a text")
    log = RevocationLog(engine, lambda: None)
    with pytest.raises(StoreUnavailable, match="not be read yet"):
        log.wait_until_read()
    with pytest.raises(StoreUnavailable, match="is not a stream"):
        log.append({"jti": "t1"})
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [
        "the revocations cannot be read: tailrace:revocations is not a stream"
    ]
    client.delete(REVOCATIONS)
    monkeypatch.setattr(revocation_log, "FIRST_READ_SECONDS", 20.0)
    log.wait_until_read()


def test_the_thread_ends_with_its_log(engine):
    before = followers()
    log, _ = followed(engine)
    [thread] = followers() - before
    del log

    def has_ended() -> bool:
        gc.collect()
        return not thread.is_alive()

    wait_until(has_ended, "the thread has ended")
