"""Which addresses outside this system it may speak to on somebody's behalf, and speaking to exactly those.

A name is resolved once, its addresses are judged, and those are connected to: what a name means cannot change between
the look and the leap. Knows nothing of what is sent.
"""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

from vlyard.errors import Complaint, InvalidInput

# These carry an IPv4 address inside, which a gateway may turn into a private one: RFC 6052, RFC 8215, RFC 3056.
_TUNNELS = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")))


def listed(hosts: str) -> frozenset[str]:
    """The hosts of a comma-separated list, as URLs name them."""
    return frozenset(filter(None, (host.strip().lower() for host in hosts.split(","))))


def checked_url(text: str, allowed: frozenset[str], where: str = "/url") -> httpx.URL:
    """The URL, if it is one that may be spoken to by its looks; raises `InvalidInput` that names `where`."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _refused(where, f"{text!r} is no URL: {error}", "send one such as https://example.org/hook") from None
    if not url.host or url.scheme not in {"http", "https"}:
        raise _refused(where, f"{text!r} is no web address", "send one such as https://example.org/hook")
    if url.userinfo or url.fragment:
        raise _refused(where, "the URL carries a password or a fragment", "put a secret into its path or query")
    if url.scheme == "http" and url.host.lower() not in allowed:
        raise _refused(where, "the URL is not encrypted", "use https://, or have the operator allow its host")
    return url


def addresses_of(url: httpx.URL, allowed: frozenset[str], where: str = "/url") -> Sequence[str]:
    """The addresses to connect to, in the resolver's order; blocks while it resolves.

    Raises `InvalidInput` where the name resolves to nothing, or to an address that is not public and whose host is
    not allowed.
    """
    host = url.raw_host.decode("ascii")
    try:
        found = socket.getaddrinfo(host, url.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refused(where, f"{url.host!r} cannot be resolved: {error}", "correct the name") from None
    addresses = list(dict.fromkeys(str(row[4][0]) for row in found))
    if url.host.lower() not in allowed and not all(is_public(ip_address(address)) for address in addresses):
        raise _refused(where, f"{url.host!r} is not a public address", "use one, or have the operator allow its host")
    return addresses


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to the open internet: not private, loopback, link-local, multicast or a tunnel's."""
    tunnelled = any(address in network for network in _TUNNELS)
    return address.is_global and not address.is_multicast and not tunnelled


def _refused(where: str, what: str, fix: str) -> InvalidInput:
    return InvalidInput("the URL is refused", [Complaint(where, what, fix)])
