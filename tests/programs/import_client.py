"""Makes a client where the modules named as arguments cannot be imported."""

import sys

sys.modules.update(dict.fromkeys(sys.argv[1:]))

from app.client import Client  # noqa: E402

Client("http://127.0.0.1:1").close()
