"""Runs the command `check` where the modules named as arguments cannot be imported."""

import sys

sys.modules.update(dict.fromkeys(sys.argv[1:]))

from app.command_line import run  # noqa: E402

sys.exit(run(["check"]))
