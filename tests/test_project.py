"""What is installed, and documents that match the code."""

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.settings import Settings
from tests.servers import ROOT

# What is installed

# `make requirements` writes each file from the one beside it that ends with `.in`.
COMPILED = [
    "requirements.txt",
    "requirements-dev.txt",
    "tests/field/requirements-clients.txt",
    "tests/bench/requirements-peers.txt",
]

# Where Tailrace runs, and what differs there in what is installed.
ENVIRONMENTS = [
    {
        "sys_platform": system,
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
    }
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
    for python in ("3.11.0", "3.11.9", "3.13.5", "3.14.1")
]


def lines(name: str) -> list[str]:
    """The lines of a file without comments; one that ends with a backslash goes on in the next."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    return [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def requirements(name: str) -> list[Requirement]:
    found = (line.partition(" --hash")[0] for line in lines(name) if not line.startswith("-"))
    return [Requirement(line) for line in found]


def by_name(found: Iterable[Requirement]) -> dict[str, Requirement]:
    return {canonicalize_name(each.name): each for each in found}


def holds(requirement: Requirement, environment: dict[str, str], extra: str = "") -> bool:
    return not requirement.marker or requirement.marker.evaluate({**environment, "extra": extra})


@pytest.mark.parametrize("name", COMPILED)
def test_every_requirement_is_pinned_and_has_hashes(name):
    assert requirements(name)
    for requirement in requirements(name):
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), requirement
    for line in lines(name):
        assert re.fullmatch(r"[^-][^ ]*==.*?( +--hash=sha256:[0-9a-f]{64})+", line), line


@pytest.mark.parametrize("name", COMPILED)
def test_what_is_asked_for_is_what_is_installed(name):
    pinned = by_name(requirements(name))
    for asked in requirements(f"{name.removesuffix('.txt')}.in"):
        found = pinned[canonicalize_name(asked.name)]
        assert found.specifier == asked.specifier, "run `make requirements`"
        for environment in ENVIRONMENTS:
            assert holds(found, environment) == holds(asked, environment)


def test_development_uses_what_the_gateway_runs_with():
    # Nothing is left out, and no line is another one. Where the gateway needs a package only on
    # some systems, development may need it on all.
    development = set(lines("requirements-dev.txt"))
    for line in lines("requirements.txt"):
        everywhere = re.sub(r" ;.*?(?=\s+--hash)", "", line)
        assert {line, everywhere} & development


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: " ".join(each.values()))
def test_what_the_requirements_bring_along_is_pinned_too(environment):
    """On every system: pip installs nothing if the hash of one package is missing."""
    pinned = by_name(requirements("requirements.txt"))
    asked = by_name(requirements("requirements.in"))
    for name, requirement in pinned.items():
        if not holds(requirement, environment) or not is_installed(name):
            continue
        for needed in needs_of(name, asked.get(name, requirement).extras, environment):
            found = pinned.get(canonicalize_name(needed.name))
            assert found, f"{requirement} needs {needed}"
            assert holds(found, environment), f"{requirement} needs {needed} there"


def is_installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def needs_of(name: str, extras: set[str], environment: dict[str, str]) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(name) or ():
        needed = Requirement(line)
        if any(holds(needed, environment, extra) for extra in ("", *extras)):
            yield needed


@pytest.mark.parametrize("name", [*COMPILED, *(f"{each[:-4]}.in" for each in COMPILED)])
def test_the_requirements_name_no_registry_and_no_folder_of_a_machine(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"://|file:|(?<![\w.])[/~]\w|--(index|extra|find|trusted)", text)


def test_pip_installs_only_what_has_the_hash_that_is_written_down():
    for name in ("Makefile", "Dockerfile"):
        text = (ROOT / name).read_text()
        installs = re.findall(r"pip install.*? -r \S+", text)
        assert installs
        assert all(" --require-hashes " in install for install in installs)


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
