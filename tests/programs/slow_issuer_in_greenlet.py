"""The keys of an issuer whose answer never ends are given up; other greenlets go on: URL."""

import sys

import gevent

from app.auth import jwks

if __name__ == "__main__":
    jwks.FETCH_SECONDS = 0.5
    keys = jwks.RemoteKeys(sys.argv[1], lambda new: None)
    turns = 0

    def count() -> None:
        global turns
        while True:
            gevent.sleep(0.001)
            turns += 1

    gevent.spawn(count)
    keys.ensure_started()
    keys.wait_first(50)
    print(keys.keys, turns > 10)
