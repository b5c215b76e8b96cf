"""Where the nodes are: the URL a user gives, and the endpoints that nodes name in their replies.

    tcp://host:5590            one node
    ipc:///path                one node on this host
    zmqbroker://[user@]h1,h2:5593,h3[:5590]    a cluster; each host may have a port, the default is 5590

It reads text and resolves no names: the shell turns host names into addresses before each connect, because names left to
libzmq would be looked up on its I/O thread. Source: INTERFACE, "Endpoints and ports".
"""

from __future__ import annotations

from dataclasses import dataclass

from zmqbroker.errors import ConfigError

__all__ = ["DEFAULT_URL", "PORT", "ClusterUrl", "is_endpoint", "parse_url", "split_endpoint"]

PORT = 5590
DEFAULT_URL = "zmqbroker://127.0.0.1"
#: A cluster has at most nine nodes; a list this long may name each of them several times over.
_HOSTS_MAX = 32
#: sockaddr_un holds 108 bytes with the closing zero.
_IPC_PATH_SIZE_MAX = 107


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """What a URL says."""

    endpoints: tuple[str, ...]  # tcp://host:port or ipc://path, in the order given, no repeats, at least one
    user: str | None = None


def parse_url(url: str) -> ClusterUrl:
    """Read a URL. Raises ConfigError that names the URL and what is wrong with it."""
    try:
        url.encode()
    except UnicodeEncodeError as error:  # an argument or a variable that was no UTF-8
        raise _fault(url, "it is not valid Unicode") from error
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise _fault(url, "it must begin with zmqbroker://, tcp:// or ipc://")
    if scheme == "zmqbroker":
        return _parse_cluster(url, rest)
    if scheme == "ipc":
        _check_path(url, rest)
        return ClusterUrl((url,))
    if scheme == "tcp":
        host, port = _host_and_port(url, rest, None)
        return ClusterUrl((f"tcp://{host}:{port}",))
    raise _fault(url, f"scheme {scheme!r} is not zmqbroker, tcp or ipc")


def is_endpoint(text: str) -> bool:
    """Whether `text`, named by a node, can be connected to."""
    try:
        return parse_url(text).endpoints == (text,)
    except ConfigError:
        return False


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host, without the brackets of an IPv6 address, and port of a tcp endpoint."""
    host, port = _host_and_port(endpoint, endpoint.removeprefix("tcp://"), None)
    return host.strip("[]"), port


def _parse_cluster(url: str, rest: str) -> ClusterUrl:
    authority, question, _options = rest.partition("?")
    if question:
        raise _fault(url, "it has options after '?', and this version knows none")
    user, at, hosts = authority.rpartition("@")
    if at and not user:
        raise _fault(url, "the user before '@' is empty")
    parts = hosts.split(",")
    if len(parts) > _HOSTS_MAX:
        raise _fault(url, f"it names {len(parts)} hosts, the limit is {_HOSTS_MAX}")
    named = [_host_and_port(url, part, PORT) for part in parts]
    endpoints = dict.fromkeys(f"tcp://{host}:{port}" for host, port in named)
    return ClusterUrl(tuple(endpoints), user or None)


def _host_and_port(url: str, text: str, port_default: int | None) -> tuple[str, int]:
    """Split `host[:port]`; the host of an IPv6 address stands in brackets and keeps them."""
    if text.startswith("["):
        host, bracket, after = text.partition("]")
        host, colon, port = host + bracket, after[:1], after[1:]
        if not bracket or len(host) < 4 or colon not in ("", ":"):
            raise _fault(url, f"{text!r} is not an IPv6 address in brackets")
    else:
        host, colon, port = text.partition(":")
        if not host or any(character.isspace() or character in "/@?#[]*" for character in host):
            raise _fault(url, f"{text!r} does not begin with a host name")
    if not colon and port_default is not None:
        return host, port_default
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65_535):
        raise _fault(url, f"{text!r} does not end with a port from 1 to 65535")
    return host, int(port)


def _check_path(url: str, path: str) -> None:
    if not path.startswith("/"):
        raise _fault(url, "the path after ipc:// must be absolute")
    if len(path.encode()) > _IPC_PATH_SIZE_MAX:
        raise _fault(url, f"the path has {len(path.encode())} bytes, the limit is {_IPC_PATH_SIZE_MAX}")


def _fault(url: str, reason: str) -> ConfigError:
    return ConfigError((f"URL {url!r} cannot be used: {reason}",))
