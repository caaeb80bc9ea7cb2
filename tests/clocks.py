"""Clocks for one module: the other threads of the process keep the real one."""

import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


def replace_time(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, **functions: Callable[..., Any]
) -> None:
    """Replace functions of the module `time`, but only where one module looks them up."""
    monkeypatch.setattr(module, "time", SimpleNamespace(**{**vars(time), **functions}))
