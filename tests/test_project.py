"""What is installed, and documents that match the code."""

import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import fields

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.settings import Settings
from tests.servers import ROOT

# What is installed


def requirements(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned(name):
    assert requirements(name)
    for requirement in requirements(name):
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), requirement


def test_what_the_requirements_bring_along_is_pinned_too():
    pinned = {canonicalize_name(each.name): each for each in requirements("requirements.txt")}
    for requirement in pinned.values():
        if requirement.marker and not requirement.marker.evaluate():
            continue
        for needed in needs_of(requirement):
            assert canonicalize_name(needed.name) in pinned, f"{requirement} needs {needed}"


def needs_of(requirement: Requirement) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(requirement.name) or ():
        needed = Requirement(line)
        extras = ["", *requirement.extras]
        if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            yield needed


# Documents


def shown(default: object) -> str:
    return "—" if default in (None, ()) else f"`{str(default).lower()}`"


def test_the_table_in_the_documentation_lists_the_settings():
    rows = re.findall(
        r"^\|\s*`([A-Z_]+)`\s*\|\s*(.*?)\s*\|",
        (ROOT / "docs" / "settings.md").read_text(),
        re.MULTILINE,
    )
    assert rows == [(each.name.upper(), shown(each.default)) for each in fields(Settings)]


def test_the_example_of_env_lists_the_variables_with_their_defaults():
    text = (ROOT / ".env.example").read_text()
    listed = re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE)
    assert [name for name, _ in listed] == [each.name.upper() for each in fields(Settings)]
    values = dict(listed)
    assert Settings.load(values) == Settings(redis_url=values["REDIS_URL"])
    assert not re.findall(r"^[A-Z_]+=", text, re.MULTILINE), "a copy of it changes nothing"
