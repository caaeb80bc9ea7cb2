"""RunRecorder in programs of the OpenAI Agents SDK."""

import pytest

from tests.field.producers.recorded import (
    check_lifecycle,
    needs_frameworks,
    scenarios_of,
)

pytestmark = needs_frameworks

MODULE = "openai_agents_scenarios"
TEXT = "one two three"
MODEL = ["llm.called", "llm.stream", "llm.answered"]
BEGIN = ["lifecycle.started", "agent.updated"]
WHOLE = [*BEGIN, *MODEL, "lifecycle.completed"]
CALL = ["llm.called", "llm.answered", "tool.called"]


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


def test_the_program_gets_the_stream_and_so_does_the_run(recorded):
    assert recorded.returned("a_stream") == [TEXT, TEXT]
    assert recorded.names("a_stream") == WHOLE
    assert [data["content"] for data in recorded.all("a_stream", "llm.stream")] == [
        "one ", "two ", "three",
    ]  # fmt: skip


@pytest.mark.parametrize("scenario", ["a_run_with_an_appender", "a_model_that_does_not_stream"])
def test_a_run_that_is_not_streamed_is_recorded_too(recorded, scenario):
    assert recorded.returned(scenario) == recorded.text(scenario) == TEXT
    assert recorded.one(scenario, "lifecycle.started") == {"name": "clerk", "input": "hi"}
    assert recorded.one(scenario, "lifecycle.completed") == {"output": TEXT}
    assert recorded.one(scenario, "llm.answered")["usage"]["input_tokens"] == 0


def test_calls_of_tools_arrive(recorded):
    scenario = "a_run_with_tools"
    answered = "tool.answered"
    whole = [*BEGIN, *CALL, answered, *CALL, answered, *MODEL, "lifecycle.completed"]
    assert recorded.names(scenario) == whole
    assert recorded.all(scenario, "tool.called")[0] == {
        "call_id": "call-add", "tool": "add", "arguments": {"a": 1, "b": 2},
    }  # fmt: skip
    first, second = recorded.all(scenario, answered)
    assert first == {"call_id": "call-add", "output": 3}
    assert "error occurred" in second["output"]


def test_a_handoff_shows_which_agent_goes_on(recorded):
    assert recorded.all("a_handoff", "agent.updated") == [{"name": "clerk"}, {"name": "expert"}]
    [text] = {
        str(each.source) for each in recorded.events("a_handoff") if each.name == "llm.stream"
    }
    assert text == "{'agent': 'expert'}"


def test_an_agent_that_is_a_tool_is_recorded_inside_the_call(recorded):
    scenario = "an_agent_that_is_a_tool"
    helper = ["tool.called", "agent.updated", *MODEL, "tool.answered"]
    calls = [*BEGIN, "llm.called", "llm.answered"]
    assert recorded.names(scenario) == [*calls, *helper, *MODEL, "lifecycle.completed"]
    assert recorded.text(scenario) == f"helping{TEXT}"
    sources = [each.source for each in recorded.events(scenario) if each.name == "llm.stream"]
    assert sources[0] == {"agent": "helper", "tool_call_id": "call-help"}
    assert sources[-1] == {"agent": "clerk"}


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("a_model_that_fails", "ValueError"),
        ("a_tool_that_fails_the_run", "UserError"),
        ("too_many_turns", "MaxTurnsExceeded"),
    ],
)
def test_an_error_reaches_the_program_and_fails_the_run(recorded, scenario, error):
    assert recorded.returned(scenario) == error
    assert recorded.one(scenario, "lifecycle.failed")["error"].startswith(f"{error}: ")


@pytest.mark.parametrize(
    "scenario",
    ["a_stream_that_is_closed", "a_run_that_is_cancelled", "a_task_that_is_cancelled"],
)
def test_what_is_interrupted_is_cancelled(recorded, scenario):
    assert recorded.names(scenario)[-1] == "lifecycle.cancelled"


def test_a_run_that_waits_for_approval_goes_on_after_it(recorded):
    scenario = "a_tool_that_waits_for_approval"
    assert recorded.returned(scenario) == TEXT
    waits, done = recorded.all(scenario, "lifecycle.completed")
    assert waits == {"waits_for_approval": ["pay"]}
    assert done == {"output": TEXT}


def test_runs_at_the_same_time_are_one_run(recorded):
    scenario = "runs_at_the_same_time"
    texts: dict[str, str] = {}
    for event in recorded.events(scenario):
        if event.name == "llm.stream":
            name = event.source["agent"]
            texts[name] = texts.get(name, "") + event.data["content"]
    assert [*texts.values()] == recorded.returned(scenario)
    assert len(recorded.all(scenario, "lifecycle.started")) == 1


def test_a_run_that_fails_inside_a_tool_does_not_fail_the_outer_one(recorded):
    scenario = "a_run_inside_a_tool_that_fails"
    assert recorded.returned(scenario) == TEXT
    assert recorded.one(scenario, "lifecycle.completed") == {"output": TEXT}


def test_a_block_makes_several_runs_one(recorded):
    assert recorded.names("several_runs_as_one") == [
        "lifecycle.started", "agent.updated", *MODEL, "agent.updated", *MODEL,
        "lifecycle.completed",
    ]  # fmt: skip


def test_an_agent_does_not_notice_that_tailrace_is_away(recorded):
    assert recorded.returned("tailrace_is_away") == [TEXT, TEXT]
    assert recorded.events("tailrace_is_away") == []
