"""Emits 150 events from each of 20 greenlets: URL RUN_ID."""

import gevent

from tests.programs.appenders import open_appender

run = open_appender()


def produce(name: int) -> None:
    for number in range(150):
        run.emit("llm", "stream", [name, number])
        if number % 50 == 0:
            gevent.sleep(0)


if __name__ == "__main__":
    with run:
        gevent.joinall([gevent.spawn(produce, name) for name in range(20)], raise_error=True)
