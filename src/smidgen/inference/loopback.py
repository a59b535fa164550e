"""Which hosts are this machine's own: what is sent there leaves it no more than what comes from there."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether a host, an address or a name, is on the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
