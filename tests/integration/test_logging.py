"""The logging handler in whole processes: the end, signal handlers, gevent, many threads."""

import pytest

from tests.run_program import run_program


def messages(store, run_id: str) -> list[str]:
    return [event.data["message"] for event in store.get_events(run_id)]


@pytest.mark.parametrize("way", ["end", "flush", "threads"])
@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
def test_all_records_are_stored_before_the_interpreter_exits(gateway, store, run_id, gevent, way):
    ended = run_program("log_and_exit", gateway.url, run_id, way, gevent=gevent)
    assert (ended.returncode, ended.stderr) == (0, "")
    stored = messages(store, run_id)
    assert [each for each in stored if each.isdigit()] == [str(number) for number in range(200)]
    assert stored.count("t") == (400 if way == "threads" else 0)
    assert not [each for each in stored if "HTTP" in each], "what was logged while sending"


def test_signal_handlers_log_wherever_they_interrupt_the_program(gateway, store, run_id):
    ended = run_program("log_and_exit", gateway.url, run_id, "signal")
    assert (ended.returncode, ended.stderr) == (0, "")
    stored = messages(store, run_id)
    assert "signal" in stored
    assert [each for each in stored if each.isdigit()] == [str(number) for number in range(2000)]


def test_what_is_not_stored_is_printed_at_the_exit():
    ended = run_program("log_and_exit", "http://127.0.0.1:1", "7", "no gateway")
    assert ended.returncode == 0
    assert "events of run 7 are not stored: StoreUnavailable" in ended.stderr
    assert ended.stderr.count("\n") == 1
