"""RunCallbackHandler in programs of LangChain and LangGraph."""

import pytest

from tests.field.producers.recorded import (
    check_lifecycle,
    needs_frameworks,
    scenarios_of,
)

pytestmark = needs_frameworks

MODULE = "langchain_scenarios"
# In these, nothing is stored, or another program writes into the run.
NOT_STORED = {"tailrace_is_away", "tailrace_is_away_for_asyncio", "the_run_has_ended_already"}
TEXT = "one two three"
MODEL = ["llm.called", "llm.stream", "llm.answered"]


@pytest.mark.parametrize(
    "scenario", [each for each in scenarios_of(MODULE) if each not in NOT_STORED]
)
def test_a_run_begins_and_ends_once(recorded, scenario):
    events = recorded.events(scenario)
    assert events
    check_lifecycle(events)


def test_the_handler_raises_nothing(recorded):
    """LangChain would log it."""
    assert "RunCallbackHandler" not in recorded.printed
    assert "Traceback" not in recorded.printed


@pytest.mark.parametrize(
    "scenario",
    [
        "a_model_that_streams",
        "a_chain_made_to_stream",
        "an_asynchronous_chain",
        "an_asynchronous_chain_with_an_appender",
        "a_graph_that_streams_messages",
    ],
)
def test_the_text_of_a_model_grows(recorded, scenario):
    assert recorded.names(scenario) == ["lifecycle.started", *MODEL, "lifecycle.completed"]
    assert recorded.text(scenario) == recorded.returned(scenario) == TEXT
    assert len(recorded.all(scenario, "llm.stream")) == 5
    sources = [each.source for each in recorded.events(scenario) if each.name == "llm.stream"]
    assert all(source == sources[0] for source in sources)  # so the page joins them


def test_a_model_that_does_not_stream_gives_its_text_at_once(recorded):
    assert recorded.all("a_model_that_is_invoked", "llm.stream") == [{"content": TEXT}]


def test_text_arrives_character_for_character(recorded):
    scenario = "a_text_in_odd_pieces"
    assert recorded.text(scenario) == recorded.returned(scenario)


@pytest.mark.parametrize("scenario", ["a_graph_with_tools", "a_graph_whose_nodes_run_in_threads"])
def test_calls_of_tools_and_the_models_inside_them_arrive(recorded, scenario):
    assert recorded.returned(scenario) == TEXT
    assert recorded.names(scenario) == [
        "lifecycle.started",
        *("llm.called", "llm.answered", "tool.called", "tool.answered"),
        *("llm.called", "llm.answered", "tool.called", *MODEL, "tool.answered"),
        *MODEL,
        "lifecycle.completed",
    ]
    assert recorded.all(scenario, "tool.called")[0] == {
        "call_id": "call-add", "tool": "add", "arguments": {"a": 1, "b": 2},
    }  # fmt: skip
    answers = [
        (data["call_id"], data["output"]) for data in recorded.all(scenario, "tool.answered")
    ]
    assert answers == [("call-add", "3"), ("call-ask", "yes of course")]
    assert recorded.text(scenario) == f"yes of course{TEXT}"
    nodes = [each.source.get("node") for each in recorded.events(scenario) if each.source]
    assert set(nodes) == {"agent", "tools"}


def test_a_graph_inside_a_graph_is_part_of_its_run(recorded):
    scenario = "a_graph_inside_a_graph"
    assert recorded.returned(scenario) == recorded.text(scenario) == TEXT
    assert recorded.names(scenario) == ["lifecycle.started", *MODEL, "lifecycle.completed"]


def test_a_retriever_is_a_call_too(recorded):
    assert recorded.names("a_retriever") == [
        "lifecycle.started", "retriever.called", "retriever.answered", "lifecycle.completed",
        "lifecycle.started", "retriever.called", "retriever.failed", "lifecycle.failed",
    ]  # fmt: skip
    assert recorded.one("a_retriever", "retriever.answered")["documents"] == 2
    assert recorded.returned("a_retriever") == "LookupError"


def test_streamed_events_of_the_program_are_all_there(recorded):
    kinds = recorded.returned("streamed_events")
    assert {"on_chain_stream", "on_chat_model_stream", "on_parser_stream"} <= set(kinds)
    assert recorded.text("streamed_events") == TEXT


def test_events_of_the_protocol_are_tokens_too(recorded):
    assert recorded.text("events_of_the_protocol") == TEXT


def test_thoughts_are_no_text(recorded):
    assert recorded.text("blocks_of_reasoning", "reasoning.stream") == "hm"
    assert recorded.text("blocks_of_reasoning") == f"{TEXT}!"


def test_a_model_that_fails_fails_the_run(recorded):
    scenario = "a_model_that_fails"
    assert recorded.returned(scenario) == "ValueError"
    assert recorded.text(scenario) == "one "
    assert recorded.one(scenario, "llm.failed")["error"] == "ValueError: the model is away"
    assert recorded.one(scenario, "lifecycle.failed") == {"error": "ValueError: the model is away"}


def test_a_tool_that_fails_need_not_fail_the_run(recorded):
    assert recorded.returned("a_tool_that_fails") == TEXT
    failed = recorded.one("a_tool_that_fails", "tool.failed")
    assert failed == {
        "call_id": "call-fail",
        "tool": "fail",
        "error": "ToolException: no such file",
    }
    assert recorded.names("a_tool_that_fails")[-1] == "lifecycle.completed"
    assert recorded.names("a_tool_that_fails_the_graph")[-2:] == ["tool.failed", "lifecycle.failed"]


@pytest.mark.parametrize(
    "scenario",
    [
        "a_stream_of_a_chain_that_is_left",
        "a_stream_of_a_graph_that_is_left",
        "an_asynchronous_stream_that_is_left",
        "an_asynchronous_stream_of_a_graph_that_is_closed",
        "a_task_that_is_cancelled",
        "ctrl_c_in_a_chain",
    ],
)
def test_what_is_interrupted_is_cancelled(recorded, scenario):
    assert recorded.names(scenario)[-1] == "lifecycle.cancelled"
    assert recorded.one(scenario, "lifecycle.cancelled")["reason"]


@pytest.mark.parametrize("scenario", ["calls_at_the_same_time", "a_graph_of_parallel_nodes"])
def test_calls_at_the_same_time_are_one_run_and_their_texts_stay_apart(recorded, scenario):
    texts: dict[str, str] = {}
    for event in recorded.events(scenario):
        if event.name == "llm.stream":
            call = event.source["call_id"]
            texts[call] = texts.get(call, "") + event.data["content"]
    assert sorted(texts.values()) == recorded.returned(scenario)
    assert len(recorded.all(scenario, "lifecycle.started")) == 1


def test_of_calls_at_the_same_time_one_that_fails_fails_the_run(recorded):
    assert recorded.returned("calls_of_which_one_fails") == "ZeroDivisionError"
    assert recorded.names("calls_of_which_one_fails") == ["lifecycle.started", "lifecycle.failed"]


def test_each_of_several_calls_reopens_the_run(recorded):
    once = ["lifecycle.started", *MODEL, "lifecycle.completed"]
    assert recorded.names("calls_one_after_the_other") == [*once, *once]


def test_a_block_makes_several_calls_one_run(recorded):
    scenario = "several_calls_as_one_run"
    assert recorded.names(scenario) == [
        "lifecycle.started", *MODEL, *MODEL, "llm.called", "llm.failed", "note.added",
        "lifecycle.completed",
    ]  # fmt: skip
    assert recorded.one(scenario, "lifecycle.started") == {"name": "both"}


def test_a_graph_that_asks_a_person_goes_on_in_the_same_run(recorded):
    once = ["lifecycle.started", "lifecycle.completed"]
    assert recorded.names("a_graph_that_asks_a_person") == [*once, *once]
    assert recorded.events("a_graph_that_asks_a_person")[-1].data["output"] == {"answer": "yes"}


def test_what_json_cannot_hold_is_text_and_what_is_too_large_is_cut(recorded):
    given = recorded.one("odd_values", "lifecycle.started")["input"]
    assert given["odd"] == "<unprintable Odd>"
    assert (given["nan"], given["1"]) == ("nan", "{2}")
    assert "characters cut" in given["big"]
    assert recorded.one("odd_values", "lifecycle.completed") == {"output": "b'bytes'"}


@pytest.mark.parametrize("scenario", ["tailrace_is_away", "tailrace_is_away_for_asyncio"])
def test_an_agent_does_not_notice_that_tailrace_is_away(recorded, scenario):
    assert recorded.returned(scenario) == [TEXT, TEXT, TEXT, "StoreUnavailable", TEXT]
    assert recorded.events(scenario) == []


def test_an_agent_does_not_notice_that_its_run_was_ended(recorded):
    scenario = "the_run_has_ended_already"
    assert recorded.returned(scenario) == [TEXT, TEXT, "RunEnded"]
    names = recorded.names(scenario)
    assert names[:2] == ["lifecycle.completed", "lifecycle.started"]
    assert names[-1] == "lifecycle.cancelled"
