"""What programs of the OpenAI Agents SDK do with RunRecorder."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from agents import Agent, RunConfig, Runner, function_tool
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

from app.async_client import AsyncClient
from app.client import Client
from app.producers import RunEvents
from app.producers.openai_agents import RunRecorder
from tests.field.producers.scenarios import AWAY, Place, Scenarios

scenario = Scenarios()

TEXT = "one two three"
UNTRACED = {"run_config": RunConfig(tracing_disabled=True)}


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@function_tool
def fail() -> str:
    """Raise an error."""
    raise ValueError("no such file")


@function_tool(failure_error_function=None)
def fail_hard() -> str:
    """Raise an error that ends the run."""
    raise ValueError("no such file")


class WordModel(ScriptedModel):
    """Streams its text word by word."""

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for event in super().stream_response(*args, **kwargs):
            if event.type != "response.output_text.delta":
                yield event
                continue
            for word in re.findall(r"\S+\s*", event.delta):
                yield event.model_copy(update={"delta": word})


class SilentModel(ScriptedModel):
    """Streams nothing but the whole response, as simple models do."""

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for event in super().stream_response(*args, **kwargs):
            if event.type == "response.completed":
                yield event


def call_of(name: str, arguments: dict[str, Any]) -> Any:
    return function_call(name, arguments, call_id=f"call-{name}")


def agent(*steps: Any, name: str = "clerk", kind: Any = WordModel, **options: Any) -> Any:
    script = [step if isinstance(step, ModelStep) else [step] for step in steps]
    return Agent(name=name, model=kind(script), **options)


def says(text: str = TEXT) -> Any:
    return assistant_message(text)


def with_recorder(place: Place, main: Callable[[RunRecorder], Awaitable[Any]]) -> Any:
    async def run_it() -> Any:
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            return await main(RunRecorder(run))

    return asyncio.run(run_it())


async def text_of(events: Any) -> str:
    deltas = [
        event.data.delta
        async for event in events
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return "".join(deltas)


@scenario
def a_stream(place: Place) -> list[str]:
    async def main(recorder: RunRecorder) -> list[str]:
        result = Runner.run_streamed(agent(says()), "hi", **UNTRACED)
        return [await text_of(recorder.stream_events(result)), result.final_output]

    return with_recorder(place, main)


@scenario
def a_model_that_does_not_stream(place: Place) -> str:
    async def main(recorder: RunRecorder) -> str:
        silent = agent(says(), kind=SilentModel)
        return (await recorder.run(silent, "hi", **UNTRACED)).final_output

    return with_recorder(place, main)


@scenario
def a_run_with_an_appender(place: Place) -> str:
    with place.appender() as run:
        result = asyncio.run(RunRecorder(run).run(agent(says()), "hi", **UNTRACED))
    return result.final_output


@scenario
def a_run_with_tools(place: Place) -> str:
    async def main(recorder: RunRecorder) -> str:
        steps = call_of("add", {"a": 1, "b": 2}), call_of("fail", {}), says()
        worker = agent(*steps, tools=[add, fail])
        return (await recorder.run(worker, "hi", **UNTRACED)).final_output

    return with_recorder(place, main)


@scenario
def a_handoff(place: Place) -> str:
    async def main(recorder: RunRecorder) -> str:
        expert = agent(says(), name="expert")
        first = agent(call_of("transfer_to_expert", {}), handoffs=[expert])
        return (await recorder.run(first, "hi", **UNTRACED)).final_output

    return with_recorder(place, main)


@scenario
def an_agent_that_is_a_tool(place: Place) -> str:
    async def main(recorder: RunRecorder) -> str:
        helper = agent(says("helping"), name="helper").as_tool(
            "help", "Help.", on_stream=recorder.on_stream, run_config=UNTRACED["run_config"]
        )
        first = agent(call_of("help", {"input": "so?"}), says(), tools=[helper])
        return (await recorder.run(first, "hi", **UNTRACED)).final_output

    return with_recorder(place, main)


async def error_of(running: Awaitable[Any]) -> str:
    try:
        await running
    except Exception as error:
        return type(error).__name__
    raise AssertionError("nothing was raised")


@scenario
def a_model_that_fails(place: Place) -> str:
    async def main(recorder: RunRecorder) -> str:
        broken = agent(ModelStep(error=ValueError("the model is away")))
        return await error_of(recorder.run(broken, "hi", **UNTRACED))

    return with_recorder(place, main)


@scenario
def a_tool_that_fails_the_run(place: Place) -> str:
    async def main(recorder: RunRecorder) -> str:
        broken = agent(call_of("fail_hard", {}), says(), tools=[fail_hard])
        return await error_of(recorder.run(broken, "hi", **UNTRACED))

    return with_recorder(place, main)


@scenario
def too_many_turns(place: Place) -> str:
    async def main(recorder: RunRecorder) -> str:
        calls = [call_of("add", {"a": 1, "b": 2}) for _ in range(3)]
        endless = agent(*calls, tools=[add])
        return await error_of(recorder.run(endless, "hi", max_turns=2, **UNTRACED))

    return with_recorder(place, main)


@scenario
def a_stream_that_is_closed(place: Place) -> str:
    async def main(recorder: RunRecorder) -> str:
        result = Runner.run_streamed(agent(says()), "hi", **UNTRACED)
        async with contextlib.aclosing(recorder.stream_events(result)) as events:
            async for event in events:
                if getattr(getattr(event, "data", None), "type", "").endswith("text.delta"):
                    return event.data.delta
        raise AssertionError("no text")

    return with_recorder(place, main)


@scenario
def a_run_that_is_cancelled(place: Place) -> None:
    async def main(recorder: RunRecorder) -> None:
        result = Runner.run_streamed(agent(says()), "hi", **UNTRACED)
        async for event in recorder.stream_events(result):
            if event.type == "raw_response_event":
                result.cancel()

    return with_recorder(place, main)


@scenario
def a_task_that_is_cancelled(place: Place) -> str:
    begun = asyncio.Event()

    @function_tool
    async def wait() -> str:
        """Wait for ever."""
        begun.set()
        await asyncio.Event().wait()
        return ""

    async def main(recorder: RunRecorder) -> str:
        worker = agent(call_of("wait", {}), tools=[wait])
        task = asyncio.create_task(recorder.run(worker, "hi", **UNTRACED))
        await begun.wait()
        task.cancel()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        return type(outcome).__name__

    return with_recorder(place, main)


@scenario
def a_tool_that_waits_for_approval(place: Place) -> str:
    @function_tool(needs_approval=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    async def main(recorder: RunRecorder) -> str:
        worker = agent(call_of("pay", {}), says(), tools=[pay])
        result = await recorder.run(worker, "hi", **UNTRACED)
        state = result.to_state()
        for interruption in result.interruptions:
            state.approve(interruption)
        return (await recorder.run(worker, state, **UNTRACED)).final_output

    return with_recorder(place, main)


@scenario
def runs_at_the_same_time(place: Place) -> list[str]:
    async def main(recorder: RunRecorder) -> list[str]:
        agents = [agent(says(f"{name} {TEXT}"), name=name) for name in "abc"]
        results = await asyncio.gather(*(recorder.run(each, "hi", **UNTRACED) for each in agents))
        return [result.final_output for result in results]

    return with_recorder(place, main)


@scenario
def a_run_inside_a_tool_that_fails(place: Place) -> str:
    async def main(recorder: RunRecorder) -> str:
        @function_tool
        async def ask() -> str:
            """Ask another agent."""
            broken = agent(ModelStep(error=ValueError("away")), name="other")
            return await error_of(recorder.run(broken, "so?", **UNTRACED))

        worker = agent(call_of("ask", {}), says(), tools=[ask])
        return (await recorder.run(worker, "hi", **UNTRACED)).final_output

    return with_recorder(place, main)


@scenario
def several_runs_as_one(place: Place) -> None:
    async def main() -> None:
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            with RunEvents(run, name="both") as events:
                for _ in range(2):
                    await RunRecorder(events).run(agent(says()), "hi", **UNTRACED)

    asyncio.run(main())


@scenario
def tailrace_is_away(place: Place) -> list[str]:
    run = Client(AWAY, retry_seconds=0.2).appender(place.run_id)

    async def main() -> list[str]:
        recorder = RunRecorder(run)
        runs = [await recorder.run(agent(says()), "hi", **UNTRACED) for _ in range(2)]
        return [result.final_output for result in runs]

    texts = asyncio.run(main())
    with contextlib.suppress(Exception):
        run.close()
    return texts


if __name__ == "__main__":
    scenario.run()
