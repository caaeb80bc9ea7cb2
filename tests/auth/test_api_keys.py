"""The file of API keys: one line for each, and nobody else may write it."""

import os
from hashlib import sha256

import pytest

from app.auth.api_keys import ApiKeysError, digest_of, read_api_keys

HASH, OTHER_HASH = (sha256(key).hexdigest() for key in (b"sesame", b"other"))


@pytest.fixture
def write(tmp_path):
    def write(text: str, mode: int = 0o600) -> str:
        file = tmp_path / "api-keys"
        file.write_text(text)
        file.chmod(mode)
        return str(file)

    return write


def test_a_line_is_a_key(write):
    found = read_api_keys(
        write(f"# producers\n\nci {HASH} append,read acme.*,b\n  a@b {OTHER_HASH} admin *\n")
    )
    ci, admin = found[digest_of("sesame")], found[digest_of("other")]
    assert ci.grants.allow("append", "acme.1")
    assert ci.grants.allow("read", "b")
    assert not ci.grants.allow("delete", "b")
    assert admin.grants.allow("admin", None)
    assert ci.account != admin.account
    assert ci.expires_at is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ci sesame append *", "line 1: must be: name"),
        (f"ci {HASH.upper()} append *", "line 1: must be: name"),
        (f"ci {HASH} append", "line 1: must be: name"),
        (f"ci {HASH} append * more", "line 1: must be: name"),
        (f"c\u0456 {HASH} append *", "line 1: must be: name"),
        (f"\nci {HASH} write *", "line 2: an action must be one of"),
        (f"ci {HASH} append a**", "line 1: a pattern must be"),
        (f"ci {HASH} , *", "line 1: there must be an action"),
        (f"ci {HASH} read *\nci {OTHER_HASH} read *", "line 2: the name or the key is there"),
        (f"ci {HASH} read *\ncd {HASH} read *", "line 2: the name or the key is there"),
    ],
)
def test_what_is_refused(write, text, message):
    with pytest.raises(ApiKeysError, match=message) as error:
        read_api_keys(write(text))
    assert HASH not in str(error.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(write, mode):
    with pytest.raises(ApiKeysError, match="must not be writable by others"):
        read_api_keys(write(f"ci {HASH} read *", mode))


def test_a_file_that_is_not_there_or_not_text(write, tmp_path):
    with pytest.raises(ApiKeysError, match="cannot read"):
        read_api_keys(str(tmp_path / "none"))
    path = write("")
    with open(path, "wb") as file:
        file.write(os.urandom(4) + b"\xff")
    with pytest.raises(ApiKeysError):
        read_api_keys(path)
