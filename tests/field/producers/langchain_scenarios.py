"""What programs of LangChain and LangGraph do with RunCallbackHandler."""

import asyncio
import contextlib
import itertools
import json
import re
import threading
from collections.abc import Iterator
from typing import Any, TypedDict

from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt

from app.async_client import AsyncClient
from app.client import Client
from app.producers import RunEvents
from app.producers.langchain import RunCallbackHandler
from tests.field.producers.scenarios import AWAY, Place, Scenarios, raised

scenario = Scenarios()

TEXT = "one two three"
PROMPT = ChatPromptTemplate.from_messages([("user", "{question}")])


def said(*messages: str | AIMessage) -> Any:
    """A model that says each message once, and streams it word by word."""
    return GenericFakeChatModel(messages=iter(messages))


class ToolModel(GenericFakeChatModel):
    """A model that streams calls of tools too."""

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        message = next(self.messages)
        calls = [
            {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": 0}
            for call in getattr(message, "tool_calls", [])
        ]
        words = [] if calls else re.split(r"( )", str(message))
        for word in [*words, ""]:
            chunk = AIMessageChunk(content=word, tool_call_chunks=[] if word else calls)
            yield ChatGenerationChunk(message=chunk)


def chain(*messages: str | AIMessage) -> Any:
    return PROMPT | said(*messages) | StrOutputParser()


def config(run: Any, **options: Any) -> Any:
    return {"callbacks": [RunCallbackHandler(run, **options)]}


def call_of(name: str, arguments: dict[str, Any]) -> AIMessage:
    call = {"name": name, "args": arguments, "id": f"call-{name}", "type": "tool_call"}
    return AIMessage(content="", tool_calls=[call])


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def ask(question: str) -> str:
    """Ask another model."""
    return "".join(each.content for each in said("yes of course").stream(question))


@tool
def fail() -> str:
    """Raise an error."""
    raise ToolException("no such file")


def graph(*messages: str | AIMessage, handle_errors: Any = True, **options: Any) -> Any:
    tools = [add, ask, fail]
    model = ToolModel(messages=iter(messages))

    def call_model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    built = StateGraph(MessagesState)
    built.add_node("agent", call_model)
    built.add_node("tools", ToolNode(tools, handle_tool_errors=handle_errors))
    built.set_entry_point("agent")
    built.add_conditional_edges("agent", tools_condition)
    built.add_edge("tools", "agent")
    return built.compile(**options)


HELLO = {"messages": [("user", "hello")]}


@scenario
def a_model_that_streams(place: Place) -> str:
    with place.appender() as run:
        return "".join(each.content for each in said(TEXT).stream("hi", config=config(run)))


@scenario
def a_model_that_is_invoked(place: Place) -> str:
    with place.appender() as run:
        return said(TEXT).invoke("hi", config=config(run)).content


@scenario
def a_chain_made_to_stream(place: Place) -> str:
    with place.appender() as run:
        return chain(TEXT).invoke({"question": "hi"}, config=config(run, stream=True))


@scenario
def an_asynchronous_chain(place: Place) -> str:
    async def main() -> str:
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            stream = chain(TEXT).astream({"question": "hi"}, config=config(run))
            return "".join([each async for each in stream])

    return asyncio.run(main())


@scenario
def an_asynchronous_chain_with_an_appender(place: Place) -> str:
    async def main() -> str:
        stream = chain(TEXT).astream({"question": "hi"}, config=config(run))
        return "".join([each async for each in stream])

    with place.appender() as run:
        return asyncio.run(main())


@scenario
def a_graph_with_tools(place: Place) -> str:
    messages = call_of("add", {"a": 1, "b": 2}), call_of("ask", {"question": "so?"}), TEXT
    with place.appender() as run:
        result = graph(*messages).invoke(HELLO, config=config(run, stream=True))
    return result["messages"][-1].content


@scenario
def a_graph_whose_nodes_run_in_threads(place: Place) -> str:
    messages = call_of("add", {"a": 1, "b": 2}), call_of("ask", {"question": "so?"}), TEXT

    async def main() -> str:
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            result = await graph(*messages).ainvoke(HELLO, config=config(run, stream=True))
            return result["messages"][-1].content

    return asyncio.run(main())


@scenario
def a_graph_that_streams_messages(place: Place) -> str:
    with place.appender() as run:
        streamed = graph(TEXT).stream(HELLO, config=config(run), stream_mode="messages")
        return "".join(message.content for message, _ in streamed)


@scenario
def a_graph_of_parallel_nodes(place: Place) -> list[str]:
    def node(name: str) -> Any:
        async def say(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await said(f"{name} {TEXT}").ainvoke("hi")]}

        return say

    async def main() -> list[str]:
        built = StateGraph(MessagesState)
        for name in "abc":
            built.add_node(name, node(name))
            built.set_entry_point(name)
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            result = await built.compile().ainvoke(HELLO, config=config(run, stream=True))
            return [message.content for message in result["messages"][1:]]

    return asyncio.run(main())


@scenario
def a_graph_inside_a_graph(place: Place) -> str:
    outer = StateGraph(MessagesState)
    outer.add_node("inner", graph(TEXT))
    outer.set_entry_point("inner")
    with place.appender() as run:
        result = outer.compile().invoke(HELLO, config=config(run, stream=True))
    return result["messages"][-1].content


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if query == "none":
            raise LookupError("the shelf is empty")
        return [Document("a"), Document("b")]


@scenario
def a_retriever(place: Place) -> str:
    with place.appender() as run:
        Shelf().invoke("hi", config=config(run))
        return raised(lambda: Shelf().invoke("none", config=config(run)))


@scenario
def streamed_events(place: Place) -> list[str]:
    async def main() -> list[str]:
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            events = chain(TEXT).astream_events({"question": "hi"}, config=config(run))
            return sorted({event["event"] async for event in events})

    return asyncio.run(main())


@scenario
def events_of_the_protocol(place: Place) -> str:
    with place.appender() as run:
        stream = said(TEXT).stream_events("hi", config=config(run), version="v3")
        return "".join(stream.text)


@scenario
def blocks_of_reasoning(place: Place) -> None:
    blocks = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": TEXT}, "!"]
    with place.appender() as run:
        said(AIMessage(content=blocks)).invoke("hi", config=config(run))


@scenario
def a_model_that_fails(place: Place) -> str:
    class Broken(GenericFakeChatModel):
        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            yield from itertools.islice(super()._stream(*args, **kwargs), 2)
            raise ValueError("the model is away")

    broken = PROMPT | Broken(messages=iter([TEXT]))
    with place.appender() as run:
        return raised(lambda: [*broken.stream({"question": "hi"}, config=config(run))])


@scenario
def a_tool_that_fails(place: Place) -> str:
    with place.appender() as run:
        result = graph(call_of("fail", {}), TEXT).invoke(HELLO, config=config(run))
    return result["messages"][-1].content


@scenario
def a_tool_that_fails_the_graph(place: Place) -> str:
    with place.appender() as run:
        broken = graph(call_of("fail", {}), TEXT, handle_errors=False)
        return raised(lambda: broken.invoke(HELLO, config=config(run)))


@scenario
def a_stream_of_a_chain_that_is_left(place: Place) -> list[str]:
    with place.appender() as run:
        stream = chain(TEXT).stream({"question": "hi"}, config=config(run))
        got = [*itertools.islice(stream, 2)]
        stream.close()
    return got


@scenario
def a_stream_of_a_graph_that_is_left(place: Place) -> str:
    with place.appender() as run:
        stream = graph(TEXT).stream(HELLO, config=config(run), stream_mode="messages")
        got = next(stream)[0].content
        stream.close()
    return got


@scenario
def an_asynchronous_stream_that_is_left(place: Place) -> str:
    async def main() -> str:
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            with RunEvents(run) as events:
                stream = chain(TEXT).astream({"question": "hi"}, config=config(events))
                async for piece in stream:
                    text = piece
                    break
                return text

    return asyncio.run(main())


@scenario
def an_asynchronous_stream_of_a_graph_that_is_closed(place: Place) -> str:
    async def main() -> str:
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            stream = graph(TEXT).astream(HELLO, config=config(run), stream_mode="messages")
            async with contextlib.aclosing(stream):
                return (await anext(stream))[0].content

    return asyncio.run(main())


@scenario
def a_task_that_is_cancelled(place: Place) -> str:
    begun = asyncio.Event()

    async def wait(state: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def main() -> str:
        built = StateGraph(MessagesState)
        built.add_node("wait", wait)
        built.set_entry_point("wait")
        async with AsyncClient(place.url) as client, client.appender(place.run_id) as run:
            task = asyncio.create_task(built.compile().ainvoke(HELLO, config=config(run)))
            await begun.wait()
            task.cancel()
            [outcome] = await asyncio.gather(task, return_exceptions=True)
            return type(outcome).__name__

    return asyncio.run(main())


@scenario
def ctrl_c_in_a_chain(place: Place) -> str:
    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    with place.appender() as run:
        return raised(lambda: RunnableLambda(interrupted).invoke("hi", config=config(run)))


@scenario
def calls_at_the_same_time(place: Place) -> list[str]:
    barrier = threading.Barrier(3, timeout=20)

    def together(text: str) -> str:
        barrier.wait()
        return "".join(each.content for each in said(text).stream("hi"))

    with place.appender() as run:
        texts = [f"{name} {TEXT}" for name in "abc"]
        return RunnableLambda(together).batch(texts, config=config(run))


@scenario
def calls_of_which_one_fails(place: Place) -> str:
    barrier = threading.Barrier(3, timeout=20)

    def together(number: int) -> int:
        barrier.wait()
        return 1 // number

    with place.appender() as run:
        return raised(lambda: RunnableLambda(together).batch([1, 0, 1], config=config(run)))


@scenario
def calls_one_after_the_other(place: Place) -> None:
    with place.appender() as run:
        handler = config(run)
        for _ in range(2):
            said(TEXT).invoke("hi", config=handler)


@scenario
def several_calls_as_one_run(place: Place) -> None:
    with place.appender() as run, RunEvents(run, name="both", lease_seconds=60) as events:
        for _ in range(2):
            said(TEXT).invoke("hi", config=config(events))
        raised(lambda: said().invoke("hi", config=config(events)))
        events.emit("note", "added", {"text": "done"})


class Answer(TypedDict, total=False):
    answer: str


@scenario
def a_graph_that_asks_a_person(place: Place) -> str:
    def node(state: Answer) -> Answer:
        return {"answer": interrupt("sure?")}

    built = StateGraph(Answer)
    built.add_node("node", node)
    built.set_entry_point("node")
    compiled = built.compile(checkpointer=InMemorySaver())
    with place.appender() as run:
        thread = {**config(run), "configurable": {"thread_id": "1"}}
        compiled.invoke({}, config=thread)
        return compiled.invoke(Command(resume="yes"), config=thread)["answer"]


@scenario
def odd_values(place: Place) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError("no")

    circular: list[Any] = []
    circular.append(circular)
    given = {"odd": Odd(), "nan": float("nan"), "self": circular, 1: {2}, "big": "x" * 1_000_000}
    with place.appender() as run:
        RunnableLambda(lambda _: b"bytes").invoke(given, config=config(run))


@scenario
def a_text_in_odd_pieces(place: Place) -> str:
    text = "a\u2028b\0c é 漢 \N{GRINNING FACE}\r\n"
    with place.appender() as run:
        model = FakeListChatModel(responses=[text])
        return "".join(each.content for each in model.stream("hi", config=config(run)))


@scenario
def tailrace_is_away(place: Place) -> list[str]:
    client = Client(AWAY, retry_seconds=0.2)
    run = client.appender(place.run_id)
    handler = config(run)
    texts = [chain(TEXT).invoke({"question": "hi"}, config=handler) for _ in range(3)]
    texts.append(raised(run.close))
    return [*texts, chain(TEXT).invoke({"question": "hi"}, config=handler)]


@scenario
def tailrace_is_away_for_asyncio(place: Place) -> list[str]:
    async def main() -> list[str]:
        async with AsyncClient(AWAY, retry_seconds=0.2) as client:
            run = client.appender(place.run_id)
            handler = config(run)
            call = {"question": "hi"}
            texts = [await chain(TEXT).ainvoke(call, config=handler) for _ in range(3)]
            try:
                await run.close()
            except Exception as error:
                texts.append(type(error).__name__)
            return [*texts, await chain(TEXT).ainvoke(call, config=handler)]

    return asyncio.run(main())


@scenario
def the_run_has_ended_already(place: Place) -> list[str]:
    Client(place.url).add(place.run_id, "lifecycle", "completed")
    run = place.appender()
    with RunEvents(run) as events:
        run.flush()
        text = said(TEXT).invoke("hi", config=config(events)).content
        Client(place.url).add(place.run_id, "lifecycle", "cancelled")
        again = said(TEXT).invoke("hi", config=config(events)).content
    return [text, again, raised(run.close)]


if __name__ == "__main__":
    scenario.run()
