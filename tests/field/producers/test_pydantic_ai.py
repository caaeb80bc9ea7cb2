"""RunCapability in programs of Pydantic AI."""

import pytest

from tests.field.producers.recorded import (
    check_lifecycle,
    needs_frameworks,
    scenarios_of,
)

pytestmark = needs_frameworks

MODULE = "pydantic_ai_scenarios"
TEXT = "one two three"
MODEL = ["llm.called", "llm.stream", "llm.answered"]
WHOLE = ["lifecycle.started", *MODEL, "lifecycle.completed"]


@pytest.mark.parametrize(
    "scenario", [each for each in scenarios_of(MODULE) if each != "tailrace_is_away"]
)
def test_a_run_begins_and_ends_once(recorded, scenario):
    events = recorded.events(scenario)
    assert events
    check_lifecycle(events)


def test_no_event_is_left_out(recorded):
    assert "left out" not in recorded.printed
    assert "Traceback" not in recorded.printed


@pytest.mark.parametrize(
    "scenario",
    ["a_run", "a_run_with_an_appender", "a_capability_of_one_call", "a_stream_of_text"],
)
def test_the_text_of_a_model_grows(recorded, scenario):
    assert recorded.names(scenario) == WHOLE
    assert recorded.text(scenario) == recorded.returned(scenario) == TEXT
    assert len(recorded.all(scenario, "llm.stream")) == 3
    assert recorded.one(scenario, "lifecycle.started") == {"name": "clerk", "input": "hi"}
    assert recorded.one(scenario, "lifecycle.completed") == {"output": TEXT}
    sources = [each.source for each in recorded.events(scenario) if each.name == "llm.stream"]
    assert all(source == sources[0] for source in sources)  # so the page joins them


@pytest.mark.parametrize("scenario", ["a_run_with_tools", "a_stream_of_events"])
def test_calls_of_tools_arrive(recorded, scenario):
    assert recorded.names(scenario) == [
        *("lifecycle.started", "llm.called", "llm.answered", "tool.called", "tool.answered"),
        *(*MODEL, "lifecycle.completed"),
    ]
    call = {"call_id": "call-add", "tool": "add"}
    assert recorded.one(scenario, "tool.called") == {**call, "arguments": {"a": 1, "b": 2}}
    assert recorded.one(scenario, "tool.answered") == {**call, "output": 3}


def test_the_program_gets_all_events_of_its_stream(recorded):
    assert recorded.returned("a_stream_of_events") == 10


def test_thoughts_are_no_text(recorded):
    assert recorded.text("thoughts", "reasoning.stream") == "hm"
    assert recorded.text("thoughts") == TEXT


def test_a_model_that_fails_fails_the_run(recorded):
    assert recorded.returned("a_model_that_fails") == "ValueError"
    assert recorded.text("a_model_that_fails") == "one two "
    failed = recorded.one("a_model_that_fails", "lifecycle.failed")
    assert failed == {"error": "ValueError: the model is away"}


def test_a_tool_that_fails_fails_the_run(recorded):
    assert recorded.returned("a_tool_that_fails_the_run") == "ValueError"
    failed = recorded.one("a_tool_that_fails_the_run", "tool.failed")
    assert failed == {"call_id": "call-fail", "tool": "fail", "error": "ValueError: no such file"}
    assert recorded.names("a_tool_that_fails_the_run")[-1] == "lifecycle.failed"


def test_a_tool_that_asks_for_another_try_has_failed_so_far(recorded):
    scenario = "a_tool_that_asks_for_another_try"
    assert recorded.returned(scenario) == "UnexpectedModelBehavior"
    errors = [data["error"] for data in recorded.all(scenario, "tool.failed")]
    assert errors[:2] == ["try again", "try again"]


def test_arguments_that_are_wrong_arrive_as_they_are(recorded):
    scenario = "arguments_that_are_wrong"
    assert "INVALID_JSON" in recorded.all(scenario, "tool.called")[0]["arguments"]
    assert recorded.all(scenario, "tool.failed")[0]["tool"] == "add"
    assert recorded.names(scenario)[-1] == "lifecycle.failed"


@pytest.mark.parametrize(
    "scenario",
    [
        "a_stream_of_events_that_is_left",
        "a_stream_of_text_that_is_left",
        "a_generator_that_is_closed",
        "a_task_that_is_cancelled",
        "a_run_that_cancels_itself",
    ],
)
def test_what_is_interrupted_is_cancelled(recorded, scenario):
    assert recorded.names(scenario)[-1] == "lifecycle.cancelled"


def test_an_iteration_is_a_run(recorded):
    assert recorded.returned("an_iteration") == recorded.text("an_iteration") == TEXT
    assert recorded.names("an_iteration")[-1] == "lifecycle.completed"


def test_an_iteration_that_is_left_is_cancelled_and_the_next_call_is_a_run(recorded):
    scenario = "an_iteration_that_is_left"
    assert recorded.returned(scenario) == TEXT
    ends = [name for name in recorded.names(scenario) if name.startswith("lifecycle.")]
    assert ends == [
        "lifecycle.started", "lifecycle.cancelled", "lifecycle.started", "lifecycle.completed",
    ]  # fmt: skip


def test_agents_inside_tools_are_inside_the_run(recorded):
    """One of them fails, and the tool goes on."""
    scenario = "agents_inside_tools"
    assert recorded.returned(scenario) == TEXT
    assert recorded.one(scenario, "lifecycle.completed") == {"output": TEXT}
    texts: dict[str, str] = {}
    for event in recorded.events(scenario):
        if event.name == "llm.stream":
            agent = event.source["agent"]
            texts[agent] = texts.get(agent, "") + event.data["content"]
    assert texts == {"inner": TEXT, "bad": "one two ", "clerk": TEXT}


def test_runs_at_the_same_time_are_one_run_and_their_texts_stay_apart(recorded):
    scenario = "runs_at_the_same_time"
    texts: dict[str, str] = {}
    for event in recorded.events(scenario):
        if event.name == "llm.stream":
            run = event.source["run_id"]
            texts[run] = texts.get(run, "") + event.data["content"]
    assert sorted(texts.values()) == recorded.returned(scenario)


def test_of_runs_at_the_same_time_one_that_fails_fails_the_run(recorded):
    scenario = "runs_of_which_one_fails"
    assert recorded.returned(scenario) == ["AgentRunResult", "ValueError"]
    assert recorded.one(scenario, "lifecycle.failed") == {"error": "ValueError: away"}


def test_an_agent_does_not_notice_that_tailrace_is_away(recorded):
    assert recorded.returned("tailrace_is_away") == [TEXT, TEXT, TEXT]
    assert recorded.events("tailrace_is_away") == []
