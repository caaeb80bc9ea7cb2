"""The code blocks of docs/producers.md, with models that need no network."""

import asyncio
import re
from pathlib import Path
from typing import Any

from agents import Agent as OpenAIAgent
from agents import set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.runnables import RunnableLambda
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from tests.field.producers.scenarios import Place, Scenarios

scenario = Scenarios()

DOCUMENT = Path(__file__).parents[3] / "docs" / "producers.md"
TEXT = "one two three"


def run_block(place: Place, number: int, **names: Any) -> dict[str, Any]:
    """Run a block that tests elsewhere do not run, and return its names."""
    text = DOCUMENT.read_text(encoding="utf-8")
    block = re.findall(r"^```python not-run\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[number]
    block = block.replace("tailrace.", "app.").replace("http://127.0.0.1:8082", place.url)
    names["question"] = "hi"
    exec(re.sub(r'"chat-\d"', repr(place.run_id), block), names)
    return names


@scenario
def langchain(place: Place) -> str:
    model = GenericFakeChatModel(messages=iter([TEXT]))
    agent = RunnableLambda(lambda question: model.invoke(question).content)
    return run_block(place, 0, agent=agent)["answer"]


@scenario
def langchain_in_asyncio(place: Place) -> str:
    """Whoever reads it stops after the first piece."""
    agent = GenericFakeChatModel(messages=iter([TEXT]))

    async def main() -> str:
        stream = run_block(place, 1, agent=agent)["answer"]("hi")
        first = await anext(stream)
        await stream.aclose()
        return first.content

    return asyncio.run(main())


@scenario
def openai_agents(place: Place) -> str:
    set_tracing_disabled(True)
    agent = OpenAIAgent(name="clerk", model=ScriptedModel([[assistant_message(TEXT)]]))
    return asyncio.run(run_block(place, 2, agent=agent)["answer"]("hi"))


@scenario
def pydantic_ai(place: Place) -> str:
    agent = Agent(TestModel(custom_output_text=TEXT))
    return run_block(place, 3, agent=agent)["result"].output


@scenario
def celery(place: Place) -> str:
    names = run_block(place, 4)
    result = names["answer"].apply(("hi",), task_id=place.run_id).get()
    names["runs"].flush()
    return result


if __name__ == "__main__":
    scenario.run()
