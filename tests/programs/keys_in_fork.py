"""The keys of an issuer are read in a parent, and again in its forked child: URL."""

import os
import sys
import warnings

from app.auth.jwks import RemoteKeys

warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)

if __name__ == "__main__":
    keys = RemoteKeys(sys.argv[1], lambda new: None)
    keys.ensure_started()
    keys.wait_first(20)
    child = os.fork()
    if child == 0:
        keys.ensure_started()
        keys.wait_first(20)
        os._exit(0 if len(keys.keys) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
