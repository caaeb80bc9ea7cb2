"""Key files: a gateway uses one only if nobody but its owner may write it."""

import os
import stat


def check_unwritable(path: str) -> None:
    """Raise ValueError if others may write a file: they could let themselves in."""
    if os.stat(path).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"{path} must not be writable by others (chmod go-w)")
