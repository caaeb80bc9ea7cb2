"""schemathesis tests a gateway against its own description, with authentication on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.integration.openapi.conftest import token
from tests.servers import ROOT

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "options",
    [["--phases=coverage,fuzzing"], ["--phases=stateful", "--max-time=15"]],
    ids=["operations", "along links"],
)
def test_schemathesis_finds_nothing(guarded, options, tmp_path):
    url = f"{guarded.url}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIGURATION, "run"]
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.integration.openapi.hooks",
        "TOKEN": token(admin=["*"]),
    }
    done = subprocess.run(
        [*command, url, *options], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    operations = sum(map(len, requests.get(url).json()["paths"].values()))
    [selected, tested] = re.findall(r"(?:Selected|Tested): +(\d+)", done.stdout)
    assert int(selected.partition("/")[0]) == operations
    assert int(tested) == operations or "stateful" in options[0]
    assert not re.search(r"Test cases:\n +0 ", done.stdout)
