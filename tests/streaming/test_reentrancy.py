"""One call per thread: which calls a thread inside a call may make."""

import os
import threading

import pytest

from app.streaming.errors import ReentrantCall
from app.streaming.reentrancy import NotReentrant
from tests.interruptions import run_inside


def test_a_thread_enters_once_and_again_after_it_has_left():
    guard = NotReentrant()

    def enter_again() -> None:
        with pytest.raises(ReentrantCall):
            run_inside(guard, guard.check)
        with pytest.raises(ReentrantCall):
            guard.check()

    for _ in range(2):
        run_inside(guard, enter_again)
        guard.check()


def test_an_error_leaves_the_guard():
    guard = NotReentrant()
    with pytest.raises(ZeroDivisionError):
        run_inside(guard, lambda: 1 / 0)
    guard.check()


def test_a_call_that_was_ended_before_it_could_leave_does_not_count():
    guard = NotReentrant()
    for _ in range(2):
        guard.enter(guard.check())
    run_inside(guard, lambda: None)


def test_other_threads_may_enter_meanwhile():
    guard, entered = NotReentrant(), []

    def enter_in_another_thread() -> None:
        thread = threading.Thread(target=run_inside, args=(guard, lambda: entered.append(True)))
        thread.start()
        thread.join()

    run_inside(guard, enter_in_another_thread)
    assert entered == [True]


def test_no_thread_of_a_forked_child_is_inside():
    guard = NotReentrant()

    def check_in_child() -> None:
        child = os.fork()
        if child == 0:
            try:
                guard.check()
            except ReentrantCall:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    run_inside(guard, check_in_child)
