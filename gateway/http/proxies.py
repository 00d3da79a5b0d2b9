"""Which forward proxy a call goes through: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, or one of the settings. Pure.

Names in lower case count before those in upper case, as curl and Python read them. Calls to the own machine are never
sent through a proxy.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from ..values.base import Value

# Value of PENSTOCK_PROXY for direct calls.
NONE = "none"
_SCHEMES = ("http", "https")
_PORT_BY_SCHEME = {"http": 80, "https": 443}
_LOOPBACK_NAMES = ("localhost", ".localhost")


class InvalidProxy(ValueError):
    """A proxy that cannot be used; the text names its variable, never its value."""


class Proxies(Value, frozen=True, kw_only=True):
    """The proxies of this process.

    by_scheme: scheme of the call's URL -> (variable that names it, URL of the proxy)
    exceptions: entries of NO_PROXY in lower case
    """

    by_scheme: Mapping[str, tuple[str, str]] = {}
    exceptions: tuple[str, ...] = ()

    def proxy_of(self, url: str) -> str | None:
        """Returns the proxy's URL for a call, with its login; None for a direct call. Raises InvalidProxy."""
        parts = urlsplit(url)
        named = self.by_scheme.get(parts.scheme.lower())
        host = (parts.hostname or "").rstrip(".")
        if named is None or not host or _is_loopback(host):
            return None
        port = parts.port or _PORT_BY_SCHEME.get(parts.scheme.lower(), 0)
        if any(_matches(entry, host, port) for entry in self.exceptions):
            return None
        return _checked(*named)


NO_PROXIES = Proxies()


def read_proxies(setting: str | None, environment: Mapping[str, str]) -> Proxies:
    """Returns the proxies of a setting: `none`, the URL of one for every call, or None for the environment's."""
    if setting == NONE:
        return NO_PROXIES
    exceptions = tuple(_variable(environment, "NO_PROXY")[1].replace(",", " ").lower().split())
    if setting is not None:
        return Proxies(by_scheme=dict.fromkeys(_SCHEMES, ("PENSTOCK_PROXY", setting)), exceptions=exceptions)
    named = {scheme: _variable(environment, f"{scheme.upper()}_PROXY", "ALL_PROXY") for scheme in _SCHEMES}
    return Proxies(by_scheme={scheme: found for scheme, found in named.items() if found[1]}, exceptions=exceptions)


def _variable(environment: Mapping[str, str], *names: str) -> tuple[str, str]:
    """Returns (name, value) of the first of these variables that is set."""
    for name in names:
        for spelling in (name.lower(), name):
            if value := environment.get(spelling, "").strip():
                return spelling, value
    return "", ""


def _checked(name: str, value: str) -> str:
    """Returns a proxy's URL, whose scheme may be missing. Raises InvalidProxy."""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme.lower() in _SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidProxy(f"{name} must be the URL of an HTTP proxy, like http://proxy:3128; SOCKS is not supported")
    return url


def _is_loopback(host: str) -> bool:
    if host == _LOOPBACK_NAMES[0] or host.endswith(_LOOPBACK_NAMES[1]):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY covers a host.

    `*`, a name with its subdomains, an address or a network; name and address may have a port.
    """
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry:
        return address is not None and _is_in_network(address, entry)
    name, entry_port = _split_port(entry)
    if entry_port and entry_port != str(port):
        return False
    if address is not None:
        return _address(name) == address
    suffix = name.removeprefix("*").removeprefix(".").rstrip(".")
    return bool(suffix) and (host == suffix or host.endswith(f".{suffix}"))


def _split_port(entry: str) -> tuple[str, str]:
    """Splits `name:port`; an IPv6 address has a port only behind brackets."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    name, colon, port = entry.rpartition(":")
    return (name, port) if colon and ":" not in name else (entry, "")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> bool:
    try:
        return address in ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
