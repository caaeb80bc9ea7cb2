"""One call per thread: which calls a thread inside a call may make."""

import os
import threading

import pytest

from app.streaming.errors import ReentrantCall
from app.streaming.reentrancy import NotReentrant


def test_a_thread_enters_once_and_again_after_it_has_left():
    guard = NotReentrant()
    for _ in range(2):
        with guard:
            with pytest.raises(ReentrantCall), guard:
                pass
            with pytest.raises(ReentrantCall):
                guard.check()
        guard.check()


def test_an_error_leaves_the_guard():
    guard = NotReentrant()
    with pytest.raises(ZeroDivisionError), guard:
        raise ZeroDivisionError
    guard.check()


def test_other_threads_may_enter_meanwhile():
    guard, entered = NotReentrant(), []

    def enter() -> None:
        with guard:
            entered.append(True)

    with guard:
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert entered == [True]


def test_no_thread_of_a_forked_child_is_inside():
    guard = NotReentrant()
    with guard:
        child = os.fork()
        if child == 0:
            try:
                guard.check()
            except ReentrantCall:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
