"""The errors: a kept one is raised as a copy, so that its traceback does not grow."""

import weakref

import pytest

from app.streaming import errors
from app.streaming.appender import Appender
from app.streaming.errors import Ingested, copy_of, without_variables
from tests.streaming.fake_log import Log, emit, unavailable

ERRORS = [
    errors.StreamingError("so"),
    errors.InvalidInput("field", "is bad"),
    errors.InvalidEvent("data", "is bad"),
    errors.EventTooLarge("data", "is too large"),
    errors.RunEnded("so"),
    errors.KeyReused("so"),
    errors.UnexpectedSequence(7),
    errors.NotALog("so"),
    errors.StoreUnavailable("away", None, 7.0),
    errors.UnsupportedServer("old"),
    errors.ReentrantCall(),
    errors.Refused(404, "no", [{"field": "a", "detail": "b"}]),
    errors.NotAllowed(401, "no"),
    KeyError("of another kind"),
]


def frames(error: BaseException | None) -> int:
    """Return how many frames an error and its causes hold."""
    count = 0
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            traceback, count = traceback.tb_next, count + 1
        error = error.__cause__ or error.__context__
    return count


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_copy_is_the_same_error(error):
    error.ingested = Ingested(1, "1-0", 1)
    copy = copy_of(error)
    assert copy is not error
    assert (type(copy), str(copy), copy.args) == (type(error), str(error), error.args)
    assert vars(copy) == vars(error)
    assert copy.__cause__ is error


def test_a_kept_error_holds_nothing_that_its_frames_held():
    class Held:
        pass

    freed = []

    def fail() -> None:
        held = Held()
        weakref.finalize(held, freed.append, 1)
        try:
            raise KeyError("the cause")
        except KeyError as error:
            raise errors.StoreUnavailable("away") from error

    try:
        fail()
    except errors.StoreUnavailable as error:
        kept = without_variables(error)
    assert freed == [1]
    assert isinstance(kept.__cause__, KeyError)


@pytest.mark.parametrize("call", ["emit", "flush", "close"])
def test_the_final_error_of_an_appender_does_not_grow(call):
    run = Appender(Log(unavailable()), retry_seconds=0)
    emit(run, 0)
    calls = {"emit": lambda: emit(run, 1), "flush": run.flush, "close": run.close}
    held = set()
    for _ in range(1000):
        try:
            calls["flush" if not held else call]()
        except (errors.StoreUnavailable, ValueError) as error:
            held.add(frames(error))
    assert max(held) < 20
    assert len(held) <= 2
