"""Addresses that always lead to the machine itself."""

import ipaddress

# Why a gateway does not start on an address beyond loopback.
STANDS_OPEN = (
    "can be reached from elsewhere, and nobody would need a token; set AUTH_SECRET or another "
    "kind of authentication (docs/security.md), or ALLOW_ANONYMOUS=true"
)


def is_loopback(host: str) -> bool:
    """Return whether a name or an address always leads to the machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
