"""What the documented option of HAProxy is for."""

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.clients import Stream
from tests.field.proxies import HAProxy, skip_if_missing
from tests.raw_http import stream_path

pytestmark = skip_if_missing(HAProxy)


def test_haproxy_delays_followers_without_the_option(brisk_gateway, store, run_id, tmp_path):
    shown = HAProxy.documented()
    without = "".join(line for line in shown.splitlines(True) if "http-no-delay" not in line)
    assert without != shown
    finished: list[str] = []

    def follow(name: str, configuration: str) -> None:
        (tmp_path / name).mkdir()
        run = f"{run_id}-{name}"
        with (
            HAProxy(tmp_path / name, brisk_gateway.port, configuration) as proxy,
            Stream(f"{proxy.url}{stream_path(run)}") as stream,
        ):
            stream.wait_for_control("caught_up")
            barrier.wait(30)
            for number in range(1, 21):
                store.add(run, "llm", "stream")
                stream.wait_for_events(number)
            finished.append(name)

    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(follow, "without", without), pool.submit(follow, "with", shown)]:
            done.result(50)
    assert finished == ["with", "without"]
