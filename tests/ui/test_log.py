"""The log of the page, without a page: its tests run in Node.js."""

import subprocess

from tests.processes import NODE
from tests.servers import ROOT


def test_the_log_of_the_page():
    script = ROOT / "tests" / "ui" / "log.test.mjs"
    done = subprocess.run([NODE, "--test", script], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout
