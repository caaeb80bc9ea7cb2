"""The appender in whole processes: at their exit, in gevent, in forks, while Redis is away."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.streaming.event_store import EventStore
from tests.servers import ROOT, wait_until

BEGINNING = """
import sys
from app.streaming.event_store import EventStore
store = EventStore(sys.argv[1])
run = store.appender(sys.argv[2], retry_seconds=0.2)
"""


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def data_of(store: EventStore, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id)]


@pytest.mark.parametrize(
    "end", ["", "sys.exit(3)", "raise ZeroDivisionError"], ids=["end", "exit", "error"]
)
@pytest.mark.parametrize(
    "before", ["", "import gevent.monkey; gevent.monkey.patch_all()"], ids=["threads", "gevent"]
)
def test_what_was_emitted_is_in_the_log_when_the_interpreter_has_ended(
    redis_server, store, run_id, before, end
):
    program = f"{before}{BEGINNING}\nfor n in range(3000): run.emit('llm', 'stream', n)\n{end}"
    ended = run_program(program, redis_server.url, run_id)
    assert data_of(store, run_id) == list(range(3000))
    assert ("Traceback" in ended.stderr) == ("raise" in end)


def test_what_could_not_be_appended_is_told_at_the_exit():
    url = "redis://127.0.0.1:1"
    ended = run_program(f"{BEGINNING}\nrun.emit('llm', 'stream')", url, "1")
    assert "StoreUnavailable" in ended.stderr


def test_it_is_told_at_the_exit_also_when_the_sender_has_ended_long_before():
    program = f"""{BEGINNING}
import threading, time
from app.streaming import appender
appender.IDLE_SECONDS = 0.01
run = store.appender(sys.argv[2], retry_seconds=0)
run.emit('llm', 'stream')
while len(sys._current_frames()) > 1: time.sleep(0.01)
"""
    ended = run_program(program, "redis://127.0.0.1:1", "1")
    assert "StoreUnavailable" in ended.stderr


def test_what_was_told_before_is_not_told_again_at_the_exit():
    program = f"""{BEGINNING}
run.emit('llm', 'stream')
try:
    run.close()
except Exception as error:
    print(type(error).__name__)
"""
    ended = run_program(program, "redis://127.0.0.1:1", "1")
    assert (ended.stdout, ended.stderr) == ("StoreUnavailable\n", "")


def test_it_may_be_used_while_the_interpreter_exits(redis_server, store, run_id):
    program = f"""import atexit
{BEGINNING}
@atexit.register
def say_goodbye():
    with run:
        run.emit('llm', 'stream', 'goodbye')
"""
    ended = run_program(program, redis_server.url, run_id)
    assert ended.stderr == ""
    assert data_of(store, run_id) == ["goodbye"]


def test_parent_and_forked_child_append_what_they_have_emitted(redis_server, store, run_id):
    program = f"""import os, warnings
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
{BEGINNING}
for n in range(100): run.emit('llm', 'stream', n)
child = os.fork()
if child == 0:
    with run:
        for n in range(100, 200): run.emit('llm', 'stream', n)
    os._exit(0)
os.waitpid(child, 0)
for n in range(200, 300): run.emit('llm', 'stream', n)
"""
    ended = run_program(program, redis_server.url, run_id)
    assert ended.stderr == ""
    stored = data_of(store, run_id)
    assert sorted(stored) == list(range(300))
    assert [n for n in stored if not 100 <= n < 200] == [*range(100), *range(200, 300)]


# The appender is the parent's, too, where the child is forked.
CHILD = """
import multiprocessing, sys
from app.streaming.event_store import EventStore

run = EventStore(sys.argv[1]).appender(sys.argv[2], retry_seconds=0)

def work():
    for number in range(3000):
        run.emit("llm", "stream", number)

if __name__ == "__main__":
    child = multiprocessing.get_context(sys.argv[3]).Process(target=work)
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


def run_child(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    program = tmp_path / "program.py"
    program.write_text(CHILD)
    return subprocess.run(
        [sys.executable, "-W", "error", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_what_a_child_of_multiprocessing_has_emitted_is_in_the_log_when_it_has_ended(
    redis_server, store, run_id, tmp_path, start
):
    ended = run_child(tmp_path, redis_server.url, run_id, start)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert data_of(store, run_id) == list(range(3000))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_a_child_of_multiprocessing_could_not_append_is_told(tmp_path, start):
    ended = run_child(tmp_path, "redis://127.0.0.1:1", "1", start)
    assert "StoreUnavailable" in ended.stderr


def test_multiprocessing_is_not_loaded_for_that(redis_server, run_id):
    program = f"""{BEGINNING}
with run:
    run.emit('llm', 'stream')
assert "multiprocessing.util" not in sys.modules
"""
    assert run_program(program, redis_server.url, run_id).stderr == ""


def test_greenlets_emit_while_a_greenlet_sends(redis_server, store, run_id):
    program = f"""import gevent.monkey; gevent.monkey.patch_all()
import gevent
{BEGINNING}
def produce(name):
    for n in range(400):
        run.emit('llm', 'stream', [name, n])
        if n % 50 == 0:
            gevent.sleep(0)
with run:
    gevent.joinall([gevent.spawn(produce, name) for name in range(20)])
"""
    ended = run_program(program, redis_server.url, run_id)
    assert ended.stderr == ""
    stored = data_of(store, run_id)
    for name in range(20):
        assert [n for by, n in stored if by == name] == list(range(400))


# Under gevent what signal.signal sets may run in the event loop itself, where nothing may wait.
ON_SIGNAL = {
    "threads": "import signal; from signal import signal as on_signal",
    "gevent": """
import gevent.monkey; gevent.monkey.patch_all()
import signal; from gevent import signal_handler as on_signal
""",
}


@pytest.mark.parametrize("how", ON_SIGNAL)
def test_thousands_of_signal_handlers_emit_as_well_as_whom_they_interrupt(
    redis_server, run_id, how
):
    program = f"""{ON_SIGNAL[how]}{BEGINNING}
store, handled, emitted = EventStore(sys.argv[1], maxlen=1_000_000), 0, 0
run = store.appender(sys.argv[2])
def handle(*_):
    global handled
    handled += 1
    run.emit('signal', 'handled', handled)
    if handled % 10 == 0:
        run.flush()
    if handled % 25 == 0:
        store.add(sys.argv[2] + '-added', 'signal', 'handled', handled)
    if handled == 4000:
        finished.append(True)
    else:
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
finished = []
on_signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.0003)
while not finished:
    emitted += 1
    run.emit('llm', 'stream', emitted)
    if emitted % 100 == 0:
        run.flush()
        store.add(sys.argv[2] + '-added', 'llm', 'stream', emitted)
run.close()
for name, steps in ((sys.argv[2], (1, 1)), (sys.argv[2] + '-added', (25, 100))):
    events = store.get_events(name)
    for category, step, count in zip(('signal', 'llm'), steps, (handled, emitted)):
        data = [event.data for event in events if event.category == category]
        assert data == list(range(step, count + 1, step)), (name, category)
"""
    ended = run_program(program, redis_server.url, run_id)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("work", ["run.emit", "store.add"])
@pytest.mark.parametrize("how", ON_SIGNAL)
def test_what_a_handler_of_sigterm_appends_is_the_runs_last_word(
    redis_server, store, run_id, how, work
):
    program = f"""{ON_SIGNAL[how]}{BEGINNING}
import os, time
from app.streaming.errors import RunEnded
emit = run.emit if "{work}" == "run.emit" else lambda *event: store.add(sys.argv[2], *event)
def handle(*_):
    run.emit('lifecycle', 'cancelled')
    run.close()
    os._exit(7)
on_signal(signal.SIGTERM, handle)
print('ready', flush=True)
try:
    for number in range(10_000_000):
        emit('llm', 'stream', number)
except (RunEnded, ValueError):  # the handler is a greenlet beside this one
    time.sleep(20)
"""
    command = [sys.executable, "-c", program, redis_server.url, run_id]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout.readline() == "ready\n"
        wait_until(lambda: store.state(run_id).length > 200, "some are stored")
        started.terminate()
        assert started.wait(20) == 7
    *events, last = store.get_events(run_id)
    assert last.event == {"category": "lifecycle", "action": "cancelled"}
    numbers = [event.data for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_an_outage_of_redis_loses_nothing_and_doubles_nothing(durable_redis, run_id, fault):
    store = EventStore(durable_redis.url, maxlen=100_000)
    run = store.appender(run_id, retry_seconds=60)
    emitted, broken = [], threading.Event()

    def produce() -> None:
        with run:
            for number in range(20_000):
                run.emit("llm", "stream", number)
                emitted.append(number)
                if number == 5000:
                    broken.wait(20)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: run.stored > 1000, "some are stored")
    durable_redis.stop() if fault == "killed" else durable_redis.pause()
    broken.set()
    wait_until(lambda: len(emitted) >= 12_000 or not producer.is_alive(), "it fills up", 30)
    durable_redis.start() if fault == "killed" else durable_redis.resume()
    producer.join(60)
    assert run.stored == 20_000
    assert data_of(store, run_id) == list(range(20_000))
