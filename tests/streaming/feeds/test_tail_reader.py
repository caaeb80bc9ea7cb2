"""The reader, with feeds that are tapped."""

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.feeds.readers import make_readers
from tests.servers import wait_until


class Listener:
    def wake(self) -> None:
        """It looks by itself."""


class Tap:
    """Counts what it takes, and what it was told to deliver."""

    def __init__(self) -> None:
        self.taken = self.flushed = 0

    def take(self, batch) -> None:
        self.taken += 1

    def flush(self) -> None:
        self.flushed = self.taken


def test_what_was_read_is_delivered_though_another_log_cannot_be_read_then(
    redis_server, redis_client, run_id
):
    class GoesAway(EventStore):
        is_away = False

        def read_in_redis(self, *arguments):
            self.is_away = True
            raise StoreUnavailable("Redis is away")

        def states(self, run_ids):
            if self.is_away:
                raise StoreUnavailable("Redis is away")
            return super().states(run_ids)

    store = GoesAway(redis_server.url)
    first, second = f"{run_id}-1", f"{run_id}-2"
    readers, listener, tap = make_readers(store), Listener(), Tap()
    for each in (first, second):
        store.add(each, "llm", "stream")
    feeds = [readers.join(each, store.state(each), listener) for each in (first, second)]
    feeds[0].tap(tap)
    [(_, fields)] = redis_client.xrange(f"run:{first}:events")
    with redis_client.pipeline(transaction=True) as pipeline:
        pipeline.xadd(f"run:{first}:events", fields | {b"sequence": b"2"})
        pipeline.xadd(
            f"run:{second}:events", {"by": "another program"}
        )  # only a read with its state tells
        pipeline.execute()
    wait_until(lambda: store.is_away, "the second log was read")
    wait_until(lambda: tap.flushed == tap.taken == 1, "the event of the first is delivered")
    for feed in feeds:
        readers.leave(feed, listener)
