"""Readiness of a cluster, asked for by many at once."""

from concurrent.futures import ThreadPoolExecutor

from app.streaming.event_store import EventStore


def test_a_cluster_that_serves_is_ready_for_all_who_ask_at_once(shared_cluster):
    store = EventStore(shared_cluster.url)

    def ask(number: int) -> list[str | None]:
        store.check_ready()
        found = [each.detail for each in store.shards()]
        store.warnings()
        return found

    with ThreadPoolExecutor(16) as pool:
        assert all(found == [None] * 3 for found in pool.map(ask, range(400)))
