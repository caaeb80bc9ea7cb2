"""AsyncClient: event loops, tasks that share it, cancellation, tokens and async iterables."""

import asyncio
import contextlib
import os

import pytest

from app.async_client import AsyncClient, Ingested, transport
from app.protocol import repeats
from app.streaming.errors import InvalidEvent, InvalidInput, ReentrantCall
from tests.client.fake_gateway import FakeGateway, response, run_state, stored, stream
from tests.client.test_credentials import Numbered, answer, only, sent
from tests.client.test_follower import OVER, event

EVENT = {"event_category": "llm", "event_action": "stream"}
INGESTED = response(200, {"stored": 1, "last_id": "1-0", "last_sequence": 1})


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


class Server:
    """A server in the loop. It answers each connection's requests with a coroutine function."""

    def __init__(self, respond):
        self._respond = respond
        self.open = 0
        self.opened = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info):
        self._server.close()

    async def has_closed_all(self, but=0):
        for _ in range(200):
            if self.open <= but:
                return True
            await asyncio.sleep(0.01)
        return False

    async def _serve(self, reader, writer):
        self.open += 1
        self.opened += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await self._respond(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


async def never(reader, writer):
    await reader.read()


async def endless(reader, writer):
    """Stream one event, and then nothing."""
    writer.write(stream(event(1), complete=False))
    await reader.read()


CALLS = {
    "add": lambda client: client.add(1, "llm", "stream"),
    "get_events": lambda client: client.get_events(1),
    "state": lambda client: client.state(1),
    "stream": lambda client: client.stream(1, [EVENT]),
    "follow": lambda client: anext(client.follow(1)),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_cancelled_call_leaves_no_connection_and_a_usable_client(call):
    async def main():
        async with Server(never) as server, AsyncClient(server.url) as client:
            for _ in range(3):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(CALLS[call](client), 0.05)
            assert server.opened == 3
            assert await server.has_closed_all()

    run(main())


async def _follow_one(client):
    events = client.follow(1)
    try:
        return (await anext(events)).id
    finally:
        await events.aclose()


STEPS = {
    "state": (lambda client: client.state(1), run_state()),
    "stream": (lambda client: client.stream(1, [EVENT] * 2), Ingested(1, "1-0", 1)),
    "follow": (_follow_one, "1-0"),
}


@pytest.mark.parametrize("call", STEPS)
def test_a_call_can_be_cancelled_at_every_step(call):
    async def respond(reader, writer):
        if call == "stream":
            await reader.readuntil(b"0\r\n\r\n")
        given = stream(event(1)) if call == "follow" else INGESTED
        if call == "state":
            given = response(200, run_state())
        for part in (given[:-2], given[-2:]):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    async def main():
        start, expected = STEPS[call]
        async with Server(respond) as server, AsyncClient(server.url) as client:
            for steps in range(80):
                task = asyncio.create_task(start(client))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert await start(client) == expected
            assert await server.has_closed_all(but=1)
            await client.aclose()
            assert await server.has_closed_all()

    run(main())


@pytest.mark.parametrize("way", ["aclose", "break", "cancel", "outer aclose"])
def test_an_iteration_that_ends_early_frees_its_connection(way):
    async def main():
        async with Server(endless) as server, AsyncClient(server.url) as client:
            if way == "aclose":
                events = client.follow(1)
                assert (await anext(events)).id == "1-0"
                await events.aclose()
            elif way == "break":
                async for _ in client.follow(1):
                    break
            elif way == "cancel":
                task = asyncio.create_task(_read_all(client.follow(1)))
                while not server.open:
                    await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                requests = client.requests(1)
                reading = asyncio.create_task(anext(requests))
                while not server.open:
                    await asyncio.sleep(0.01)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                await requests.aclose()
            assert await server.has_closed_all()

    run(main())


async def _read_all(events):
    return [each async for each in events]


def test_many_followers_do_not_hold_up_each_other_or_an_append():
    async def main():
        async def respond(reader, writer):
            writer.write(stream(event(1), complete=False))
            await reader.read()

        async with Server(respond) as server, AsyncClient(server.url) as client:
            followers = [client.follow(number) for number in range(200)]
            firsts = await asyncio.gather(*map(anext, followers))
            assert [each.id for each in firsts] == ["1-0"] * 200
            assert server.open == 200
            for each in followers:
                await each.aclose()
            assert await server.has_closed_all()

    run(main())


def test_idle_connections_are_kept_while_there_are_many_streams():
    async def main():
        appends = 0

        async def respond(reader, writer):
            nonlocal appends
            appends += 1
            writer.write(response(200, run_state()).replace(b"Connection: close\r\n", b""))

        async with (
            Server(endless) as streams,
            Server(respond) as server,
            AsyncClient(streams.url) as following,
            AsyncClient(server.url) as client,
        ):
            followers = [following.follow(number) for number in range(120)]
            await asyncio.gather(*map(anext, followers))
            following._transport._url = server.url  # the same client, another server
            for _ in range(3):
                await following.state(1)
                await client.state(1)
            assert (appends, server.opened) == (6, 2)
            for each in followers:
                await each.aclose()

    run(main())


def test_a_silent_stream_is_followed_over_another_connection(monkeypatch):
    monkeypatch.setattr(transport, "FOLLOW_TIMEOUTS", (10.0, 0.05))

    async def respond(reader, writer):
        writer.write(stream("retry: 1", event(server.opened), complete=False))
        await reader.read()

    async def main():
        nonlocal server
        async with Server(respond) as server, AsyncClient(server.url) as client:
            events = client.follow(1)
            assert [(await anext(events)).id for _ in range(3)] == ["1-0", "2-0", "3-0"]
            await events.aclose()
            assert await server.has_closed_all()

    server = None
    run(main())


# Event loops


def test_a_client_can_be_used_in_one_loop_after_another():
    with FakeGateway([stored]) as gateway:
        client = AsyncClient(gateway.url)

        async def main():
            async with client:
                return await client.add(1, "llm", "stream")

        assert [run(main()) for _ in range(3)] == ["1-0"] * 3


def test_a_client_in_two_loops_at_once_raises():
    with FakeGateway([stored]) as gateway:
        client, loop = AsyncClient(gateway.url), asyncio.new_event_loop()
        try:
            loop.run_until_complete(client.add(1, "llm", "stream"))
            with pytest.raises(RuntimeError, match="another event loop"):
                run(client.add(1, "llm", "stream"))
            loop.run_until_complete(client.aclose())
        finally:
            loop.close()
    assert len(gateway.requests) == 1


def test_a_forked_child_makes_its_own_connections():
    with FakeGateway([stored]) as gateway:

        async def main():
            client = AsyncClient(gateway.url)
            await client.add(1, "llm", "stream")
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    asyncio.run(client.add(1, "llm", "stream"))
                    status = 0
                finally:
                    os._exit(status)
            # The loop goes on while the child works.
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert status == 0
            await client.add(1, "llm", "stream")
            await client.aclose()

        run(main())
    assert len(gateway.requests) == 3


# Tokens


@pytest.mark.parametrize("is_async", [False, True])
def test_all_tasks_that_were_refused_share_one_new_token(is_async):
    numbered = Numbered()

    async def token():
        await asyncio.sleep(0.01)
        return numbered()

    async def main():
        with FakeGateway([only("t2")]) as gateway:
            async with AsyncClient(gateway.url, token=token if is_async else numbered) as client:
                adds = [client.add(1, "llm", "stream") for _ in range(20)]
                assert await asyncio.gather(*adds) == ["1-0"] * 20

    run(main())
    assert numbered.count == 2


def test_tasks_that_wait_for_a_function_share_its_error_and_not_its_cancellation():
    asked = []

    async def main():
        async def token():
            asked.append(1)
            await asyncio.sleep(0.02)
            raise OSError("no issuer")

        client = AsyncClient("http://127.0.0.1:1", token=token)
        tasks = [asyncio.create_task(client.state(1)) for _ in range(10)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert [str(each) for each in outcomes[1:]] == ["no issuer"] * 9

    run(main())
    assert len(asked) == 2


@pytest.mark.parametrize("call", CALLS)
def test_a_function_that_uses_its_own_client_gets_an_error_and_no_deadlock(call):
    async def main():
        async def token():
            await CALLS[call](client)
            return "t1"

        with FakeGateway([answer]) as gateway:
            client = AsyncClient(gateway.url, token=token)
            with pytest.raises(ReentrantCall):
                await CALLS[call](client)
        assert gateway.requests == []

    run(main())


def test_what_an_async_function_returns_is_checked():
    async def token():
        return "p q"

    async def main():
        await AsyncClient("http://127.0.0.1:1", token=token).state(1)

    with pytest.raises(InvalidInput, match="RFC 6750"):
        run(main())


def test_a_token_of_an_async_function_is_sent():
    async def token():
        return "t1"

    async def main():
        async with AsyncClient(gateway.url, token=token) as client:
            await client.state(1)

    with FakeGateway([answer]) as gateway:
        run(main())
    assert sent(gateway) == ["Bearer t1"]


# Streams of events


def lines_of(gateway) -> int:
    return gateway.requests[0].body.count(b"llm")


@pytest.mark.parametrize("kind", ["list", "generator", "async generator"])
def test_a_stream_takes_iterables_of_every_kind(kind):
    async def coming():
        for each in events:
            await asyncio.sleep(0)
            yield each

    events = [EVENT] * 3
    given = {"list": events, "generator": iter(events), "async generator": coming()}[kind]
    with FakeGateway([INGESTED]) as gateway:
        run(AsyncClient(gateway.url).stream(1, given))
        assert lines_of(gateway) == 3


@pytest.mark.parametrize("error", [OSError("disk"), KeyError("x")])
def test_an_error_of_an_async_iterable_is_raised_after_the_events_before_it_are_sent(error):
    async def coming():
        yield EVENT
        raise error

    with FakeGateway([INGESTED]) as gateway:
        with pytest.raises(type(error)) as failed:
            run(AsyncClient(gateway.url).stream(1, coming()))
        assert failed.value is error
        assert lines_of(gateway) == 1


def test_an_event_that_cannot_be_ends_a_stream():
    async def coming():
        yield EVENT
        yield {"event_category": "gateway", "event_action": "x"}

    with (
        FakeGateway([INGESTED]) as gateway,
        pytest.raises(InvalidEvent, match=r"1\.event_category"),
    ):
        run(AsyncClient(gateway.url).stream(1, coming()))


def test_a_silent_async_iterable_sends_blank_lines(monkeypatch):
    monkeypatch.setattr(repeats, "SILENT_SECONDS", 0.01)

    async def coming():
        yield EVENT
        await asyncio.sleep(0.1)
        yield EVENT

    with FakeGateway([INGESTED]) as gateway:
        run(AsyncClient(gateway.url).stream(1, coming()))
        body = gateway.requests[0].body
        assert lines_of(gateway) == 2
        assert body.count(b"\n") > 3


def test_a_cancelled_stream_cancels_what_its_iterable_waits_for():
    cancelled = []

    async def coming():
        yield EVENT
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def main():
        async with Server(never) as server, AsyncClient(server.url) as client:
            before = asyncio.all_tasks()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.stream(1, coming()), 0.05)
            assert await server.has_closed_all()
            assert not asyncio.all_tasks() - before

    run(main())
    assert cancelled == [1]


# All runs


def test_runs_are_read_page_by_page():
    pages = [{"runs": [run_state("a")], "next": "c1"}, {"runs": [run_state("b")], "next": None}]

    async def main(**options):
        with FakeGateway([response(200, page) for page in pages]) as gateway:
            found = [each async for each in AsyncClient(gateway.url).runs(**options)]
        return [each["run_id"] for each in found], gateway.of_requests(lambda each: each.query)

    found, queries = run(main(state="active", prefix="x"))
    assert found == ["a", "b"]
    assert queries[1] == {"state": ["active"], "prefix": ["x"], "after": ["c1"], "limit": ["100"]}
    found, queries = run(main(limit=1))
    assert (found, queries) == (["a"], [{"limit": ["1"]}])


def test_changes_of_runs_are_followed_past_terminal_events():
    blocks = [event(1, "lifecycle.completed"), event(None, "gateway.caught_up", 1)]

    async def main():
        client = AsyncClient(gateway.url)
        return [each.id async for each in client.follow_runs(prefix="x", tail=2)]

    with FakeGateway([stream("retry: 1", *blocks), stream("retry: 1", event(2)), OVER]) as gateway:
        assert run(main()) == ["1-0", None, "2-0"]
    queries = gateway.of_requests(lambda each: each.query)
    assert queries[0] == {"prefix": ["x"], "tail": ["2"]}
    assert queries[1:] == [{"prefix": ["x"]}] * 2
