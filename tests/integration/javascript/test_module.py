"""The module by itself: its tests in each Node.js here, its types, and its size."""

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import NODE, NODE_SCRIPTS
from tests.servers import ROOT

FOLDER = ROOT / "clients" / "javascript"
TSC = NODE_SCRIPTS / "node_modules" / "typescript" / "bin" / "tsc"
MAX_BYTES = 6 * 1024
OLDEST_NODE = 20


def other_node() -> str | None:
    """Return the Node.js of this machine, if there is one that the module must run in."""
    found = shutil.which("node")
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    return found if int(version.lstrip("v").split(".")[0]) >= OLDEST_NODE else None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("node", [NODE, other_node()], ids=["installed", "of the machine"])
@pytest.mark.parametrize(
    "tests", sorted((FOLDER / "tests").glob("*.test.mjs")), ids=lambda p: p.name
)
def test_its_own_tests_pass(node: Path | str | None, tests: Path):
    if node is None:
        pytest.skip("there is no Node.js 20 or newer")
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", tests], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE)


def test_a_program_compiles_against_its_types(tmp_path):
    options = {
        "strict": True, "noEmit": True, "noUnusedLocals": True, "module": "nodenext",
        "target": "es2022", "lib": ["es2022", "dom", "dom.asynciterable"], "types": [],
        "exactOptionalPropertyTypes": True, "noUncheckedIndexedAccess": True,
    }  # fmt: skip
    files = [str(Path(__file__).parent / "sample.ts"), str(FOLDER / "client.d.ts")]
    project = tmp_path / "tsconfig.json"
    project.write_text(json.dumps({"compilerOptions": options, "files": files}))
    command = [NODE, TSC, "--project", project]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout


def test_it_has_what_its_types_say():
    """Every exported name, and every member of a class, is there."""
    types = (FOLDER / "client.d.ts").read_text()
    bodies = re.findall(r"^export (?:class|interface) (\w+).*?\{\n(.*?)^\}", types, re.M | re.S)
    members = {
        name: re.findall(r"^  (?:readonly )?(\w+)[(<:]", body, re.MULTILINE)
        for name, body in bodies
        if name in ("Client", "Following", "Appender", "SseParser", "TailraceError")
    }
    script = """
        import * as module from "MODULE";
        const { Client, SseParser, TailraceError, follow } = module;
        const client = new Client("http://127.0.0.1:1");
        const objects = {
            Client: client, Following: client.follow(1), Appender: client.appender(1),
            SseParser: new SseParser(), TailraceError: new TailraceError(500, "so"),
        };
        const missing = Object.entries(MEMBERS).flatMap(([name, members]) =>
            members.filter((each) => !(each in objects[name])).map((each) => `${name}.${each}`));
        console.log(JSON.stringify([Object.keys(module), missing]));
    """
    script = script.replace("MODULE", (FOLDER / "client.js").as_uri())
    script = script.replace("MEMBERS", json.dumps(members))
    command = [NODE, "--input-type=module", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    names, missing = json.loads(done.stdout)
    assert missing == []
    assert len(members["Client"]) > 12
    exported = re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE)
    assert sorted(names) == sorted(exported)


def test_it_has_no_dependencies_and_under_six_kilobytes():
    code = (FOLDER / "client.js").read_bytes()
    assert len(gzip.compress(code, 9, mtime=0)) < MAX_BYTES
    assert not re.search(rb"\bimport\b|\brequire\(", code)
    package = json.loads((FOLDER / "package.json").read_text())
    assert not [name for name in package if "ependencies" in name]
    assert all((FOLDER / name).exists() for name in package["files"])
