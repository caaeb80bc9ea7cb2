"""How pytest-xdist distributes the tests over its processes."""

from xdist.scheduler import LoadScopeScheduling

# Tests that use the same servers, or the same browser, run in one process. So do tests that start
# a launcher: its Redis takes the first free port from 6379 on, and after a crash it needs that port
# again, which a launcher of another process might have taken.
GROUPS = {
    "tests/agents/test_chat_page.py": "chat page",
    "tests/agents/test_cuts.py": "cuts",
    "tests/agents/test_ends.py": "ends",
    "tests/cluster/test_bad_input.py": "cluster",
    "tests/cluster/test_connections.py": "cluster",
    "tests/cluster/test_event_store.py": "cluster",
    "tests/cluster/test_integration.py": "cluster",
    "tests/cluster/test_lost_invalidations.py": "lost invalidations",
    "tests/deploy/test_dashboard.py": "dashboard",
    "tests/field/producers/test_celery.py": "celery",
    "tests/field/producers/test_document.py": "document of producers",
    "tests/field/producers/test_langchain.py": "langchain",
    "tests/field/producers/test_openai_agents.py": "openai-agents",
    "tests/field/producers/test_pydantic_ai.py": "pydantic-ai",
    "tests/field/test_clients.py": "clients",
    "tests/field/test_proxies.py": "proxies",
    "tests/field/test_proxy_faults.py": "proxy faults",
    "tests/integration/launcher/": "launcher",
    "tests/integration/test_wheel.py": "launcher",
    "tests/integration/archive/test_buckets.py": "buckets",
    "tests/integration/ingest/test_bad_lines.py": "bad lines",
    "tests/integration/openapi/test_examples.py": "examples",
    "tests/integration/openapi/test_schemathesis.py": "schemathesis",
    "tests/integration/openapi/test_shared_answers.py": "shared answers",
    "tests/integration/quickstart/": "quickstart",
    "tests/integration/test_documents.py": "documents",
    "tests/integration/test_floods.py": "floods",
    "tests/integration/test_overload.py": "overload",
    "tests/integration/test_redis_away.py": "Redis away",
    "tests/integration/test_redis_full.py": "Redis full",
    "tests/integration/test_stalled_clients.py": "stalled clients",
    "tests/ui/test_accessibility.py": "accessibility",
    "tests/ui/test_examples.py": "examples with a page",
    "tests/ui/test_hostile_events.py": "hostile events",
    "tests/ui/test_large_runs.py": "large runs",
    "tests/ui/test_place_and_search.py": "place and search",
    "tests/ui/test_resume.py": "resume",
    "tests/ui/test_run_page.py": "run page",
    "tests/ui/test_runs_page.py": "runs page",
    "tests/ui/test_session.py": "session",
}


class GroupScheduling(LoadScopeScheduling):
    """Gives each test to the next free process, and all tests of a group to the same one.

    The mark `xdist_group` of pytest-xdist 3.8 has no effect under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        groups = (group for path, group in GROUPS.items() if nodeid.startswith(path))
        return next(groups, nodeid)
