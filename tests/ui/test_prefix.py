"""The pages behind a proxy that serves the gateway below a path."""

import pytest

from tests.field.proxies import Nginx, skip_if_missing

LOCATION = "location /a/gateway/ { proxy_pass http://127.0.0.1:8082/; proxy_buffering off; }"
HEALTH = "location /healthz { proxy_pass http://127.0.0.1:8082; }"

pytestmark = skip_if_missing(Nginx)


@pytest.fixture
def prefix(large_gateway, tmp_path):
    with Nginx(tmp_path, large_gateway.port, LOCATION + HEALTH) as nginx:
        yield f"{nginx.url}/a/gateway"


def test_both_pages_work_below_a_path(store, run_id, open_run, open_context, prefix):
    store.add(run_id, "log", "line", 1)
    runs = open_context().new_page()
    runs.goto(f"{prefix}/#prefix={run_id}")
    runs.click(f"#runs a:text-is('{run_id}')")
    runs.wait_for_selector("#events .row")
    assert runs.url.startswith(f"{prefix}/ui/runs/{run_id}")
    run = open_run(run_id, url=prefix)
    run.wait_for_events(1)
    store.add(run_id, "log", "line", 2)
    run.wait_for_events(2)
    assert run.page.get_attribute("#download", "href").startswith(f"{prefix}/runs/")
    run.page.click(".brand")
    run.page.wait_for_selector("#runs a")
    for page in (runs, run.page):
        page.context.close()
