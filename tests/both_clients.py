"""Runs the tests of a folder over Client and over AsyncClient, which a loop in a thread drives.

A test module names `Client`. In the test that a driven AsyncClient passes, another class stands
there, with the same methods. A test of what only `Client` has is marked `only_client`.
"""

import asyncio
import concurrent.futures
import contextlib
import inspect
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from functools import partial
from types import SimpleNamespace
from typing import Any, Self

import pytest

from app.async_client import AsyncAppender, AsyncClient
from app.async_client import appender as async_appender
from app.async_client import exported_lines as async_exported_lines
from app.async_client import follower as async_follower
from app.async_client import transport as async_transport
from app.client import Client, exported_lines, follower, transport
from app.streaming import batch_sender
from tests.clocks import replace_time

SECONDS = 20


class Loop:
    """An event loop in a thread, for one test."""

    def __init__(self) -> None:
        self.is_closing = False
        self.generators: list[AsyncGenerator] = []
        self.clients: list[AsyncClient] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine) -> Any:
        """Run a coroutine in the loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

    def close(self) -> None:
        """End the thread. No task may be left but those of generators that were not read on."""
        self.is_closing = True
        try:
            self.run(self._cancel_tasks())
            for generator in self.generators:
                self.run(_close(generator))
            for client in self.clients:
                self.run(client.aclose())
            self.run(self._loop.shutdown_asyncgens())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SECONDS)
            self._loop.close()

    async def _cancel_tasks(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _close(generator: AsyncGenerator) -> None:
    await generator.aclose()


class DrivenEvents:
    """An async generator, read by any thread."""

    def __init__(self, loop: Loop, generator: AsyncGenerator):
        self._loop = loop
        self._generator = generator
        loop.generators.append(generator)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return self._loop.run(_next(self._generator))
        except (StopAsyncIteration, concurrent.futures.CancelledError) as ended:
            if isinstance(ended, StopAsyncIteration) or self._loop.is_closing:
                raise StopIteration from None
            raise

    def close(self) -> None:
        self._loop.run(self._generator.aclose())


async def _next(generator: AsyncGenerator) -> Any:
    return await anext(generator)


class DrivenAppender:
    """An AsyncAppender, used by any thread."""

    def __init__(self, loop: Loop, appender: AsyncAppender):
        self._loop = loop
        self._appender = appender

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def emit(self, *arguments: Any, **options: Any) -> None:
        self._loop.run(self._appender.emit(*arguments, **options))

    def flush(self) -> None:
        self._loop.run(self._appender.flush())

    def close(self) -> None:
        self._loop.run(self._appender.close())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._appender, name)


class DrivenClient:
    """An AsyncClient with the methods of a Client."""

    def __init__(self, loop: Loop, *arguments: Any, **options: Any):
        self._loop = loop
        self._client = AsyncClient(*arguments, **options)
        loop.clients.append(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def appender(self, *arguments: Any, **options: Any) -> DrivenAppender:
        return DrivenAppender(self._loop, self._client.appender(*arguments, **options))

    def stream(self, run_id: int | str, events: Iterable, **options: Any) -> Any:
        return self._loop.run(self._client.stream(run_id, _pulled(events), **options))

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any, **options: Any) -> Any:
            result = attribute(*arguments, **options)
            if inspect.iscoroutine(result):
                return self._loop.run(result)
            return DrivenEvents(self._loop, result)

        return call


_END = object()


async def _pulled(events: Iterable) -> AsyncIterator:
    """Read an iterable that may block, in another thread."""
    iterator = iter(events)
    while (event := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield event


@pytest.fixture(autouse=True)
def client_class(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Client] | partial[DrivenClient]]:
    """Put the class that this test is about where its module names `Client`."""
    if getattr(request, "param", Client) is Client:
        yield Client
        return
    with contextlib.closing(Loop()) as loop:
        driven = partial(DrivenClient, loop)
        if hasattr(request.module, "Client"):
            monkeypatch.setattr(request.module, "Client", driven)
        yield driven


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names_client = hasattr(metafunc.module, "Client") or "client" in metafunc.fixturenames
    if not names_client:
        return
    marks = [*metafunc.definition.iter_markers("only_client")]
    classes = [Client] if marks else [Client, AsyncClient]
    metafunc.parametrize("client_class", classes, indirect=True, ids=lambda each: each.__name__)


def replace_pauses(monkeypatch: pytest.MonkeyPatch, pause: Callable[[float], object]) -> None:
    """Call a function with the seconds of each pause of both clients, which takes no time."""

    async def sleep(seconds: float) -> None:
        pause(seconds)
        await asyncio.sleep(0)

    for module in (transport, follower, exported_lines, batch_sender):
        replace_time(monkeypatch, module, sleep=pause)
    for module in (async_transport, async_follower, async_exported_lines, async_appender):
        functions = SimpleNamespace(**{**vars(asyncio), "sleep": sleep})
        monkeypatch.setattr(module, "asyncio", functions)
