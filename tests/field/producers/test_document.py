"""The code blocks of docs/producers.md do what the document says."""

import pytest

from app.streaming.event_store import EventStore
from tests.documents import blocks_of
from tests.field.producers.recorded import (
    Recorded,
    check_lifecycle,
    needs_frameworks,
    run_scenarios,
    scenarios_of,
)
from tests.servers import ROOT, GatewayServer

pytestmark = needs_frameworks

MODULE = "document_scenarios"


@pytest.fixture(scope="module")
def recorded(
    gateway: GatewayServer, store: EventStore, tmp_path_factory: pytest.TempPathFactory
) -> Recorded:
    return run_scenarios(MODULE, gateway, store, tmp_path_factory.mktemp(MODULE))


def test_every_block_is_run():
    blocks = [
        block for block in blocks_of(ROOT / "docs" / "producers.md") if block.mark == "not-run"
    ]
    assert len(blocks) == len(scenarios_of(MODULE))


@pytest.mark.parametrize("scenario", scenarios_of(MODULE))
def test_a_block_makes_a_run(recorded, scenario):
    events = recorded.events(scenario)
    assert events
    check_lifecycle(events)


@pytest.mark.parametrize("scenario", ["langchain", "openai_agents", "pydantic_ai"])
def test_the_text_of_the_model_is_in_it(recorded, scenario):
    assert recorded.text(scenario) == recorded.returned(scenario) == "one two three"


def test_a_stream_that_is_left_is_cancelled(recorded):
    assert recorded.names("langchain_in_asyncio")[-1] == "lifecycle.cancelled"


def test_a_task_may_emit_events_of_its_own(recorded):
    assert recorded.names("celery") == ["lifecycle.started", "note.added", "lifecycle.completed"]
    assert recorded.returned("celery") == "HI"
