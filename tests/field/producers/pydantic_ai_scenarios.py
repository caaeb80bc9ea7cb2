"""What programs of Pydantic AI do with RunCapability."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.models.function import (
    AgentInfo,
    DeltaThinkingPart,
    DeltaToolCall,
    FunctionModel,
)
from pydantic_ai.models.test import TestModel

from app.async_client import AsyncClient
from app.client import Client
from app.producers import RunEvents
from app.producers.pydantic_ai import RunCapability
from tests.field.producers.scenarios import AWAY, Place, Scenarios, raised

scenario = Scenarios()

TEXT = "one two three"
WORDS = ["one ", "two ", "three"]


def model(*calls: tuple[str, str], error: Exception | None = None, words: Any = WORDS) -> Any:
    """A model that calls each tool once, in this order, and then says words, or fails."""

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        parts = [part for message in messages for part in message.parts]
        done = sum(isinstance(part, ToolReturnPart) for part in parts)
        if done < len(calls):
            name, arguments = calls[done]
            yield {0: DeltaToolCall(name=name, json_args=arguments, tool_call_id=f"call-{name}")}
            return
        for number, word in enumerate(words):
            if error is not None and number == 2:
                raise error
            yield word

    return FunctionModel(stream_function=stream)


def with_run(place: Place, main: Callable[[Any], Awaitable[Any]]) -> Any:
    async def run_it() -> Any:
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            return await main(run)

    return asyncio.run(run_it())


def clerk(run: Any, *calls: tuple[str, str], **options: Any) -> Agent:
    agent = Agent(model(*calls, **options), name="clerk", capabilities=[RunCapability(run)])

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        return a + b

    @agent.tool_plain(retries=2)
    def retry() -> str:
        raise ModelRetry("try again")

    @agent.tool_plain
    def fail() -> str:
        raise ValueError("no such file")

    return agent


@scenario
def a_run(place: Place) -> str:
    async def main(run: Any) -> str:
        return (await clerk(run).run("hi")).output

    return with_run(place, main)


@scenario
def a_run_with_an_appender(place: Place) -> str:
    with place.appender() as run:
        return clerk(run).run_sync("hi").output


@scenario
def a_capability_of_one_call(place: Place) -> str:
    with place.appender() as run:
        agent = Agent(TestModel(custom_output_text=TEXT), name="clerk")
        return agent.run_sync("hi", capabilities=[RunCapability(run)]).output


@scenario
def a_run_with_tools(place: Place) -> str:
    async def main(run: Any) -> str:
        return (await clerk(run, ("add", '{"a": 1, "b": 2}')).run("hi")).output

    return with_run(place, main)


@scenario
def a_stream_of_text(place: Place) -> str:
    async def main(run: Any) -> str:
        async with clerk(run).run_stream("hi") as result:
            return "".join([each async for each in result.stream_text(delta=True)])

    return with_run(place, main)


@scenario
def a_stream_of_events(place: Place) -> int:
    async def main(run: Any) -> int:
        async with clerk(run, ("add", '{"a": 1, "b": 2}')).run_stream_events("hi") as events:
            return len([event async for event in events])

    return with_run(place, main)


@scenario
def thoughts(place: Place) -> str:
    words = [{0: DeltaThinkingPart(content="hm")}, *WORDS]

    async def main(run: Any) -> str:
        return (await clerk(run, words=words).run("hi")).output

    return with_run(place, main)


@scenario
def a_model_that_fails(place: Place) -> str:
    with place.appender() as run:
        return raised(lambda: clerk(run, error=ValueError("the model is away")).run_sync("hi"))


@scenario
def a_tool_that_fails_the_run(place: Place) -> str:
    with place.appender() as run:
        return raised(lambda: clerk(run, ("fail", "{}")).run_sync("hi"))


@scenario
def a_tool_that_asks_for_another_try(place: Place) -> str:
    with place.appender() as run:
        return raised(lambda: clerk(run, *[("retry", "{}")] * 3).run_sync("hi"))


@scenario
def arguments_that_are_wrong(place: Place) -> str:
    with place.appender() as run:
        return raised(lambda: clerk(run, ("add", '{"a": "x"'), ("add", "[]")).run_sync("hi"))


@scenario
def a_stream_of_events_that_is_left(place: Place) -> None:
    async def main(run: Any) -> None:
        async with clerk(run).run_stream_events("hi") as events:
            async for _ in events:
                break

    with_run(place, main)


@scenario
def a_stream_of_text_that_is_left(place: Place) -> str:
    async def main(run: Any) -> str:
        async with clerk(run).run_stream("hi") as result:
            async for piece in result.stream_text(delta=True, debounce_by=None):
                return piece
        raise AssertionError("no text")

    return with_run(place, main)


@scenario
def an_iteration(place: Place) -> str:
    async def main(run: Any) -> str:
        async with clerk(run, ("add", '{"a": 1, "b": 2}')).iter("hi") as steps:
            async for _ in steps:
                pass
            return steps.result.output

    return with_run(place, main)


@scenario
def an_iteration_that_is_left(place: Place) -> str:
    async def main(run: Any) -> str:
        agent = clerk(run, ("add", '{"a": 1, "b": 2}'))
        async with agent.iter("hi") as steps:
            async for _ in steps:
                break
        return (await agent.run("hi again")).output  # which is not inside the one before

    return with_run(place, main)


@scenario
def a_generator_that_is_closed(place: Place) -> None:
    """As a web server does when its client has gone."""

    async def pieces(run: Any) -> AsyncIterator[str]:
        async with clerk(run).run_stream("hi") as result:
            async for piece in result.stream_text(delta=True, debounce_by=None):
                yield piece

    async def main(run: Any) -> None:
        async with contextlib.aclosing(pieces(run)) as generator:
            await anext(generator)

    with_run(place, main)


@scenario
def a_task_that_is_cancelled(place: Place) -> str:
    async def main(run: Any) -> str:
        begun = asyncio.Event()
        agent = clerk(run, ("wait", "{}"))

        @agent.tool_plain
        async def wait() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(agent.run("hi"))
        await begun.wait()
        task.cancel()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        return type(outcome).__name__

    return with_run(place, main)


@scenario
def a_run_that_cancels_itself(place: Place) -> str:
    async def main(run: Any) -> str:
        agent = clerk(run, ("stop", "{}"))

        @agent.tool
        async def stop(context: RunContext[Any]) -> None:
            context.cancel()
            await asyncio.Event().wait()

        try:
            await agent.run("hi")
        except Exception as error:
            return type(error).__name__
        raise AssertionError("nothing was raised")

    return with_run(place, main)


@scenario
def agents_inside_tools(place: Place) -> str:
    async def main(run: Any) -> str:
        agent = clerk(run, ("ask", "{}"), ("ask_badly", "{}"))
        inner = Agent(model(), name="inner", capabilities=[RunCapability(events)])
        error = ValueError("away")
        bad = Agent(model(error=error), name="bad", capabilities=[RunCapability(events)])

        @agent.tool_plain
        async def ask() -> str:
            return (await inner.run("so?")).output

        @agent.tool_plain
        async def ask_badly() -> str:
            with contextlib.suppress(ValueError):
                await bad.run("so?")
            return "no"

        return (await agent.run("hi")).output

    async def run_it() -> str:
        nonlocal events
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            events = RunEvents(run)
            return await main(events)

    events: Any = None
    return asyncio.run(run_it())


@scenario
def runs_at_the_same_time(place: Place) -> list[str]:
    async def main(run: Any) -> list[str]:
        events = RunEvents(run)
        agents = [clerk(events, words=[f"{name} ", *WORDS]) for name in "abc"]
        results = await asyncio.gather(*(agent.run("hi") for agent in agents))
        return [result.output for result in results]

    return with_run(place, main)


@scenario
def runs_of_which_one_fails(place: Place) -> list[str]:
    async def main(run: Any) -> list[str]:
        events = RunEvents(run)
        agents = clerk(events), clerk(events, error=ValueError("away"))
        runs = (agent.run("hi") for agent in agents)
        results = await asyncio.gather(*runs, return_exceptions=True)
        return [type(result).__name__ for result in results]

    return with_run(place, main)


@scenario
def tailrace_is_away(place: Place) -> list[str]:
    run = Client(AWAY, retry_seconds=0.2).appender(place.run_id)
    texts = [clerk(run).run_sync("hi").output for _ in range(2)]
    with contextlib.suppress(Exception):
        run.close()
    return [*texts, clerk(run).run_sync("hi").output]


if __name__ == "__main__":
    scenario.run()
