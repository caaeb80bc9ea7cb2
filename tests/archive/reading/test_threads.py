"""Calls to the storage in threads, while the worker's other greenlets go on."""

import threading

import gevent
import pytest

from app.archive.threads import MAX_THREADS, StorageThreads
from app.streaming.errors import ArchiveUnavailable, DamagedArchive
from tests.servers import wait_until


@pytest.fixture
def stalled():
    """A call that does not return before the test is over, and counts how often it was made."""
    over, calls = threading.Event(), []

    def call() -> None:
        calls.append(threading.get_ident())
        over.wait(60)

    call.calls = calls
    yield call
    over.set()


def test_a_call_is_made_in_another_thread_and_its_result_returned():
    threads = StorageThreads()
    assert threads(threading.get_ident) != threading.get_ident()
    assert threads(lambda: "result") == "result"


def test_an_error_is_raised_as_it_is(capfd):
    def fail() -> None:
        raise DamagedArchive("a/1/x", "it is no gzip")

    with pytest.raises(DamagedArchive, match="a/1/x"):
        StorageThreads()(fail)
    assert "Traceback" not in capfd.readouterr().err


def test_a_call_that_does_not_return_is_given_up_while_others_go_on(stalled):
    threads, ticks = StorageThreads(seconds=0.2), []

    def tick() -> None:
        while True:
            ticks.append(1)
            gevent.sleep(0.001)

    other = gevent.spawn(tick)
    try:
        with pytest.raises(ArchiveUnavailable, match="did not respond within"):
            threads(stalled)
        assert len(ticks) > 2
    finally:
        other.kill()


def test_a_storage_that_did_not_respond_is_left_alone_and_then_tried_out(stalled):
    threads = StorageThreads(seconds=0.1, pause_seconds=60)
    with pytest.raises(ArchiveUnavailable):
        threads(stalled)
    for _ in range(5):
        with pytest.raises(ArchiveUnavailable, match="does not respond"):
            threads(stalled)
    wait_until(lambda: len(stalled.calls) == 1, "the only call has begun")


def test_one_call_tries_out_whether_the_storage_responds_again(stalled, caplog):
    threads = StorageThreads(seconds=0.1, pause_seconds=0)
    with pytest.raises(ArchiveUnavailable):
        threads(stalled)
    trial = gevent.spawn(threads, stalled)
    gevent.idle()
    with pytest.raises(ArchiveUnavailable, match="does not respond"):
        threads(stalled)
    trial.join()
    assert isinstance(trial.exception, ArchiveUnavailable)
    assert threads(lambda: "result") == "result"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_more_calls_than_threads_wait_no_longer_than_each_other(stalled):
    threads = StorageThreads(seconds=0.3, pause_seconds=0)
    calls = [gevent.spawn(threads, stalled) for _ in range(MAX_THREADS + 10)]
    gevent.joinall(calls)
    assert all(isinstance(call.exception, ArchiveUnavailable) for call in calls)
    assert len(stalled.calls) <= MAX_THREADS
