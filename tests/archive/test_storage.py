"""Storage: which one a URL names, and how a directory keeps objects."""

import fcntl
import os
import sys
from urllib.parse import quote

import pytest

from app.archive import file_storage, storage
from app.archive.file_storage import FileStorage
from app.archive.storage import check_url, storage_of
from app.streaming.errors import ArchiveUnavailable, InvalidInput


@pytest.fixture
def files(tmp_path):
    return FileStorage(tmp_path / "archive")


def test_what_is_stored_is_there(files):
    assert files.get("a/1/x") is None
    assert list(files.names("a")) == []
    assert files.folders("") == []
    files.put("a/1/x", b"one")
    files.put("a/1/y", b"two")
    files.put("a/2/x", b"")
    files.put("a/1/x", b"three")
    assert files.get("a/1/x").data == b"three"
    assert files.get("a/2/x").data == b""
    assert sorted(files.names("a")) == ["a/1/x", "a/1/y", "a/2/x"]
    assert list(files.names("a/2")) == ["a/2/x"]
    assert sorted(files.folders("a")) == ["1", "2"]
    assert files.folders("") == ["a"]


def test_deleting_twice_is_no_error(files):
    files.put("a/1/x", b"one")
    files.delete("a/1/x")
    files.delete("a/1/x")
    files.delete("b/1/x")
    assert files.get("a/1/x") is None


def test_an_object_is_replaced_only_as_the_caller_knows_it(files):
    assert files.replace("a/1/x", b"one", None)
    assert not files.replace("a/1/x", b"two", None)
    one = files.get("a/1/x")
    assert files.replace("a/1/x", b"two", one.version)
    assert not files.replace("a/1/x", b"three", one.version)
    assert files.get("a/1/x").data == b"two"
    files.delete("a/1/x")
    assert not files.replace("a/1/x", b"three", one.version)


def test_what_a_killed_process_left_is_no_object(files, tmp_path):
    files.put("a/1/x", b"one")
    (tmp_path / "archive" / "a" / "1" / ".unfinished").write_bytes(b"half")
    assert list(files.names("")) == ["a/1/x"]
    files.put("a/1/y", b"two")
    assert files.get("a/1/y").data == b"two"


def test_a_folder_that_another_process_has_locked_is_waited_for_but_not_for_ever(
    files, tmp_path, monkeypatch
):
    monkeypatch.setattr(file_storage, "MAX_LOCK_SECONDS", 0.0)
    files.put("a/1/x", b"one")
    with (tmp_path / "archive" / "a" / "1" / ".lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ArchiveUnavailable, match="another process"):
            files.put("a/1/x", b"two")
        files.put("b/1/x", b"two")
        assert files.get("a/1/x").data == b"one"
    files.put("a/1/x", b"two")


def test_a_directory_that_is_none_is_unavailable(tmp_path):
    (tmp_path / "archive").write_text("a file")
    files = FileStorage(tmp_path / "archive")
    with pytest.raises(ArchiveUnavailable, match="a/1/x"):
        files.put("a/1/x", b"one")
    with pytest.raises(ArchiveUnavailable, match="a/1/x"):
        files.get("a/1/x")
    with pytest.raises(ArchiveUnavailable):
        files.folders("")


def test_a_full_disk_is_unavailable_and_leaves_the_object_as_it_was(files):
    files.put("a/1/x", b"one")
    script = (
        "import resource, signal, sys; from pathlib import Path;"
        "from app.archive.file_storage import FileStorage;"
        "from app.streaming.errors import ArchiveUnavailable;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10));\n"
        "try: FileStorage(Path(sys.argv[1])).put('a/1/x', b'x' * 100)\n"
        "except ArchiveUnavailable as error: sys.exit(str(error))"
    )
    command = [sys.executable, "-c", script, str(files._directory)]
    done = os.spawnvpe(os.P_WAIT, sys.executable, command, {**os.environ, "PYTHONPATH": "."})
    assert done == 1
    assert files.get("a/1/x").data == b"one"


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "begin with file:///"),
        ("/tmp/a", "begin with file:///"),
        ("http://a/b", "begin with file:///"),
        ("memory:///", "begin with file:///"),
        ("file://a/b", "a path from /"),
        ("file:a", "a path from /"),
        ("s3://", "a bucket"),
        ("s3:///a", "a bucket"),
        ("s3://key:secret@bucket/a", "no keys"),
        ("s3://bucket/a?x=1", "no keys"),
        ("file:///a#b", "no keys"),
        ("s3://[a/b", "IPv6"),
    ],
)
def test_a_wrong_url_says_what_is_allowed(url, part):
    with pytest.raises(InvalidInput, match=part):
        check_url(url)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    check_url("file:///a")
    with pytest.raises(InvalidInput, match=r"\[archive\]"):
        check_url("s3://bucket/a")


def test_the_url_of_a_directory_may_have_any_characters(tmp_path):
    path = tmp_path / "an archive %é"
    storage_of(f"file://{quote(str(path))}").put("a/1/x", b"one")
    assert (path / "a" / "1" / "x").read_bytes() == b"one"


def test_the_urls_of_buckets_give_storages(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    for url in ("s3://bucket/some/path", "az://container/path"):
        assert type(storage_of(url)).__name__ == "ObjectStorage"
