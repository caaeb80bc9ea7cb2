"""What is known of the server that a gateway started for itself: where its data and its URL are."""

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

# In the working directory. Nobody but its user may look into it.
DATA = Path(".data")
# The server holds a lock on it, exactly as long as it runs.
LOCK = "lock"
# The URL with the password, of the server that runs or ran last.
URL = "redis-url"


def running_server_url(directory: Path = DATA) -> str | None:
    """Return the URL of the server that runs with its data in a directory, None without one."""
    if sys.platform == "win32":
        return None
    try:
        with open(directory / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return last_url(directory)
    except OSError:
        pass
    return None


def last_url(directory: Path) -> str | None:
    """Return the URL of the last server in a directory; None if it cannot be read."""
    try:
        return (directory / URL).read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def write_url(directory: Path, url: str) -> None:
    """Keep the URL of a server. Raises OSError."""
    path = directory / URL
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{url}\n")
    new.replace(path)
