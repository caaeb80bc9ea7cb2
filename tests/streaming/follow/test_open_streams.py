"""The open streams of a worker: the limit, the drain, and the end of those whose tokens end."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from app.streaming.feeds.readers import make_readers
from app.streaming.follow import open_streams
from app.streaming.follow.heartbeats import Heartbeats
from app.streaming.follow.history import History
from app.streaming.follow.merged_replay import MergedReplay
from app.streaming.follow.open_streams import Client, OpenStreams
from app.streaming.follow.replay import Replay
from app.streaming.follow.standing import Standing
from app.streaming.follow.start import Start
from app.streaming.follow.subscriber import Services, Subscriber
from app.streaming.merged.formats import MergedEventStream
from app.streaming.wire.formats import EventStream, Filter, StreamFormat
from tests.clocks import replace_time
from tests.servers import wait_until

CLIENT = Client("127.0.0.1", "a-1", "curl/8")


@dataclass
class Subject:
    account: str
    expires_at: float | None = None


@pytest.fixture
def services(fake_store) -> Services:
    return Services(fake_store, make_readers(fake_store), History(fake_store), Heartbeats(15.0))


def make_subscribers(streams: OpenStreams, number: int) -> list[Subscriber]:
    stream_format = StreamFormat(Filter(), EventStream())
    return [
        streams.subscriber(Replay("any", Start(), streams.services), stream_format)
        for _ in range(number)
    ]


def test_streams_are_admitted_up_to_the_limit(services):
    streams = OpenStreams(services, 2)
    first, second, third = make_subscribers(streams, 3)
    assert [streams.admit(each, CLIENT) for each in (first, second, third)] == [True, True, False]
    first.close()
    assert streams.admit(third, CLIENT)


def merged(streams: OpenStreams, *run_ids: str) -> Subscriber:
    replay = MergedReplay(dict.fromkeys(run_ids, Start()), streams.services)
    return streams.subscriber(replay, StreamFormat(Filter(), MergedEventStream()))


def test_streams_are_admitted_as_long_as_they_follow_no_more_runs_than_the_limit(services):
    """Two streams of the same runs share the readers, so these runs count once."""
    streams = OpenStreams(services, 4)
    first, same = merged(streams, "a", "b", "c"), merged(streams, "a", "b", "c")
    assert streams.admit(first, CLIENT)
    assert streams.admit(same, CLIENT)
    assert streams.has_place_for(("a", "d"))
    assert not streams.has_place_for(("d", "e"))
    assert not streams.admit(merged(streams, "d", "e"), CLIENT)
    assert streams.admit(merged(streams, "d"), CLIENT)
    first.close()
    assert not streams.has_place_for(("e",))
    same.close()
    assert streams.has_place_for(("e", "f", "g"))


def test_a_stream_of_several_runs_counts_as_many_times_for_its_subject(services):
    class Ada:
        account, expires_at = "ada", None

    streams = OpenStreams(services, 10, 3)
    assert not streams.is_too_much_for(Ada, ("a", "b", "c"))
    assert streams.is_too_much_for(Ada, ("a", "b", "c", "d"))
    two = merged(streams, "a", "b")
    assert streams.admit(two, CLIENT, Ada)
    assert not streams.is_too_much_for(Ada, ("a",))
    assert not streams.is_too_much_for(Ada, ())
    assert streams.is_too_much_for(Ada, ("a", "b"))
    two.close()
    assert not streams.is_too_much_for(Ada, ("a", "b", "c"))


def test_a_stream_that_is_closed_twice_is_counted_once(services):
    streams = OpenStreams(services, 2)
    first, second = make_subscribers(streams, 2)
    assert streams.admit(first, CLIENT)
    assert streams.admit(second, CLIENT)
    first.close()
    first.close()
    assert len(streams) == 1


def test_a_drain_ends_every_stream_and_admits_no_more(services):
    streams = OpenStreams(services, 10)
    *admitted, late = make_subscribers(streams, 6)
    for stream in admitted:
        streams.admit(stream, CLIENT)
    streams.drain(0.01)
    assert {stream.reason for stream in admitted} == {"draining"}
    assert not streams.admit(late, CLIENT)


class Clock:
    """A clock that only `sleep` moves. After each sleep `after` is called."""

    def __init__(self, after: Callable[[float], None] = lambda now: None):
        self.now = 0.0
        self._after = after

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._after(self.now)


class EndingStream:
    """A stream that closes when `end` is called, unless its client reads nothing."""

    kind, run_id, followed, events, reason = "stream", "any", (), 0, None

    def __init__(self, clock: Clock, streams: OpenStreams, reads: bool = True):
        self.ended_at: float | None = None
        self._clock, self._streams, self._reads = clock, streams, reads

    def standing(self) -> Standing:
        return Standing("writing", 0, 0)

    def end(self, reason: str) -> None:
        self.ended_at = self._clock.now
        if self._reads:
            self._streams.closed(self)

    def cut(self) -> None:
        self._streams.closed(self)


def drain(monkeypatch, streams: OpenStreams, clock: Clock, opened: list[EndingStream]) -> float:
    """Drain within 10 seconds of the clock, and return when that is over."""
    for stream in opened:
        assert streams.admit(stream, CLIENT)
    replace_time(monkeypatch, open_streams, sleep=clock.sleep, monotonic=clock.monotonic)
    streams.drain(10)
    assert len(streams) == 0
    return clock.now


@pytest.mark.parametrize(("number", "end"), [(0, 0), (1, 0), (2, 5), (10, 9)])
def test_a_drain_is_over_when_the_last_stream_has_ended(services, monkeypatch, number, end):
    streams, clock = OpenStreams(services, 10), Clock()
    opened = [EndingStream(clock, streams) for _ in range(number)]
    assert drain(monkeypatch, streams, clock, opened) == pytest.approx(end)
    assert sorted(each.ended_at for each in opened) == pytest.approx(
        [10 * count / number for count in range(number)]
    )


def test_a_drain_is_over_when_the_clients_have_left(services, monkeypatch):
    streams = OpenStreams(services, 10)

    def leave(now: float) -> None:
        if now > 2:
            for stream in opened:
                streams.closed(stream)

    clock = Clock(leave)
    opened = [EndingStream(clock, streams) for _ in range(2)]
    assert drain(monkeypatch, streams, clock, opened) == pytest.approx(2, abs=0.2)


def test_a_drain_cuts_a_client_that_reads_nothing(services, monkeypatch):
    streams, clock = OpenStreams(services, 10), Clock()
    end = drain(monkeypatch, streams, clock, [EndingStream(clock, streams, reads=False)])
    assert end == pytest.approx(open_streams.FINISH_SECONDS, abs=0.1)


# Owners, whose tokens expire or are revoked


@dataclass
class Bearer:
    account: str = "sub:a"
    expires_at: float | None = None


class Endless:
    """A stream whose client does not read what belongs before the end."""

    kind, run_id, followed, events = "stream", "any", (), 0

    def __init__(self, streams: OpenStreams, broken: bool = False) -> None:
        self.reason: str | None = None
        self.warnings: list[int] = []
        self.is_cut = False
        self._streams, self._broken = streams, broken

    def end(self, reason: str) -> None:
        self.reason = self.reason or reason

    def warn(self, seconds: int) -> None:
        self.warnings.append(seconds)
        if self._broken:
            raise RuntimeError("a fault of this stream")

    def cut(self) -> None:
        self.is_cut = True
        self._streams.closed(self)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(open_streams, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(open_streams, "FINISH_SECONDS", 0.05)


def test_a_client_that_does_not_read_is_cut_off_soon_after_its_token_is_revoked(services, quick):
    streams = OpenStreams(services, 10)
    doomed, safe = Endless(streams), Endless(streams)
    streams.admit(doomed, CLIENT, Bearer("sub:a", time.time() + 600))
    streams.admit(safe, CLIENT, Bearer("sub:b", time.time() + 600))
    streams.end_owned(lambda owner: owner.account == "sub:a", "revoked")
    assert (doomed.reason, doomed.is_cut) == ("revoked", False)
    wait_until(lambda: doomed.is_cut, "it is cut off")
    assert (safe.reason, safe.is_cut) == (None, False)
    assert len(streams) == 1


def test_a_stream_is_warned_once_ends_at_its_expiry_and_is_cut_off(services, quick):
    streams = OpenStreams(services, 10)
    stream = Endless(streams)
    streams.admit(stream, CLIENT, Bearer(expires_at=time.time() + 0.5))
    wait_until(lambda: stream.is_cut, "it is cut off")
    assert stream.warnings == [1]
    assert stream.reason == "expired"


def test_a_fault_of_one_stream_does_not_keep_others_from_their_expiry(services, quick, caplog):
    streams = OpenStreams(services, 10)
    broken, other = Endless(streams, broken=True), Endless(streams)
    for stream in (broken, other):
        streams.admit(stream, CLIENT, Bearer(expires_at=time.time() + 0.3))
    wait_until(lambda: broken.is_cut and other.is_cut, "both are cut off")
    assert "a fault of this stream" in caplog.text


@pytest.mark.parametrize(
    ("account", "shown"),
    [
        ("sub:ada", "sub:ada"),
        ("sub:ada lovelace", "'sub:ada lovelace'"),
        ("sub:a\nINFO all is well", "'sub:a\\nINFO all is well'"),
        ("sub:x run=2", "'sub:x run=2'"),
        ("sub:\u00e9", "'sub:\\xe9'"),
    ],
)
def test_the_first_line_names_the_account_and_no_account_can_forge_another_line(
    services, caplog, account, shown
):
    caplog.set_level("INFO", "tailrace.stream")
    streams = OpenStreams(services, 1)
    [subscriber] = make_subscribers(streams, 1)
    streams.admit(subscriber, CLIENT, Subject(account))
    [record] = caplog.records
    assert f" account={shown} request_id=a-1" in record.getMessage()
    assert record.account == account
