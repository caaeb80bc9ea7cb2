"""A process that shares one connection to Redis forks, and the child makes calls too.

Arguments: the URL of the server, a key that nobody else uses, and the name of a scene.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable

from app.streaming.redis import connection, redis_url
from app.streaming.redis.availability import Availability
from app.streaming.redis.connection import RedisConnection
from app.streaming.redis.shared_connection import SharedConnection
from tests.servers import wait_until

URL, KEY, SCENE = sys.argv[1:]
PARENT = os.getpid()

client = redis_url.make_client(URL)


def connect() -> RedisConnection:
    if os.getpid() != PARENT:
        threading.Event().wait(0.05)  # meanwhile the other threads call
    return connection.make_connection(client)


shared = SharedConnection(connect, Availability(lambda: None))
own_id = shared.call("CLIENT", "ID")


def in_child(work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            work()
        except BaseException as error:
            print("in the child:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"


def in_threads(work: Callable[[], None], count: int) -> None:
    done: list[None] = []
    threads = [threading.Thread(target=lambda: done.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == count


def call_in_child() -> None:
    child_id = shared.call("CLIENT", "ID")
    assert child_id != own_id
    assert shared.call("CLIENT", "ID") == child_id


def one_caller() -> None:
    in_child(call_in_child)


def while_another_thread_leads() -> None:
    leader = threading.Thread(target=shared.call, args=("BLPOP", KEY, 0))
    leader.start()
    wait_until(lambda: shared._batch and not shared._waiting, "it leads")
    replies: list[bytes] = []
    waiting = threading.Thread(target=lambda: replies.append(shared.call("ECHO", "waited")))
    waiting.start()
    wait_until(lambda: shared._waiting, "it waits")
    in_child(call_in_child)
    connection.call(client, "RPUSH", KEY, "go on")
    leader.join()
    waiting.join()
    assert replies == [b"waited"]


def many_threads_at_once() -> None:
    in_child(lambda: in_threads(call_in_child, 8))


SCENES = [one_caller, while_another_thread_leads, many_threads_at_once]

if __name__ == "__main__":
    {scene.__name__: scene for scene in SCENES}[SCENE]()
    assert shared.call("CLIENT", "ID") == own_id
    print("done")
