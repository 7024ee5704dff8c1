"""The client's address: the one place that reads it, behind proxies that the operator names."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, TypeAlias

from app.setting_values import FORWARDED_FOR

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_HOPS = 32
"""Entries of the header that are read, from the right."""
MAX_KNOWN = 4096
"""Addresses whose reading is remembered: most requests come from one that came before."""
LOCAL = "local"
"""Stands for a client without an address, such as one on a Unix socket."""


class Addresses:
    """Tells clients apart by their address.

    Only a trusted proxy may name another address than its own: in one header, the right-most entry
    that is no trusted proxy is the client. No other header is read.
    """

    def __init__(self, trusted: Sequence[str] = (), header: str = FORWARDED_FOR) -> None:
        self.trusted = [network(text) for text in trusted]
        self.header = header.lower().encode()

    def is_trusted(self, address: Address) -> bool:
        """Say whether an address is a trusted proxy's."""
        return any(address in each for each in self.trusted)

    def of_peer(self, peer: str | None) -> str | None:
        """Return the bucket of a connection; None for a trusted proxy, which has many clients."""
        address = read_address(peer or "")
        if address is None:
            return LOCAL
        return None if self.is_trusted(address) else bucket(address)

    def of(self, scope: Any) -> str:
        """Return the bucket of a request's client."""
        address = self.client(scope)
        return LOCAL if address is None else bucket(address)

    def client(self, scope: Any) -> Address | None:
        """Return the address of a request's client; None for one without an address."""
        peer = scope.get("client")
        address = read_address(peer[0]) if peer else None
        if address is not None and self.trusted and self.is_trusted(address):
            address = self.forwarded(address, scope["headers"])
        return address

    def forwarded(self, proxy: Address, headers: Iterable[tuple[bytes, bytes]]) -> Address:
        """Follow the header from the right, up to the first entry that is no trusted proxy.

        An entry that is no address ends the search: the hop that wrote it is the client then.
        """
        lines = [value for name, value in headers if name == self.header]
        entries = b",".join(lines).decode("latin-1").rsplit(",", MAX_HOPS)
        for entry in reversed(entries[-MAX_HOPS:]):
            address = read_address(entry)
            if address is None:
                break
            proxy = address
            if not self.is_trusted(address):
                break
        return proxy


def read_address(text: str) -> Address | None:
    """Read an address, perhaps with a port, brackets or a zone; None for anything else.

    An IPv4 address that is mapped into IPv6 is the IPv4 address.
    """
    text = text.strip()
    return None if len(text) > 100 else parse(text)


@lru_cache(MAX_KNOWN)
def parse(text: str) -> Address | None:
    """Read an address of at most 100 characters."""
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not is_port(port)):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not is_port(f":{port}"):
            return None
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found


def is_port(text: str) -> bool:
    """Say whether a text is a colon and a port."""
    return text[0] == ":" and 0 < len(text) <= 6 and text[1:].isascii() and text[1:].isdigit()


@lru_cache(MAX_KNOWN)
def bucket(address: Address) -> str:
    """Return what is budgeted as one client: an IPv4 address, or an IPv6 network of 64 bits.

    Whoever has one IPv6 address usually has all of its network.
    """
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


def network(text: str) -> Network:
    """Read an address or a CIDR block; raises `ValueError`, for an IPv6 zone too."""
    if "%" in text:
        raise ValueError("a zone is known to one machine alone")
    found = ip_network(text.strip(), strict=False)
    if isinstance(found, IPv6Network) and (mapped := found.network_address.ipv4_mapped):
        return IPv4Network((mapped, max(0, found.prefixlen - 96)))
    return found


def is_within(address: Address | None, allowed: Sequence[str]) -> bool:
    """Say whether an address is in one of these blocks; any is if there are none.

    A client without an address is in no block.
    """
    return not allowed or (
        address is not None and any(address in network(block) for block in allowed)
    )
