"""Makes the app of a gateway where the modules named as arguments cannot be imported."""

import sys

sys.modules.update(dict.fromkeys(sys.argv[1:]))

from app import create_app  # noqa: E402

create_app()
