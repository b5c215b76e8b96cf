"""URLs that name nodes."""

from __future__ import annotations

import pytest

from zmqbroker.client.url import ClusterUrl, is_endpoint, parse_url, split_endpoint
from zmqbroker.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("tcp://host:5590", ClusterUrl(("tcp://host:5590",))),
        ("tcp://[::1]:1", ClusterUrl(("tcp://[::1]:1",))),
        ("ipc:///run/zmqbroker.sock", ClusterUrl(("ipc:///run/zmqbroker.sock",))),
        ("zmqbroker://127.0.0.1", ClusterUrl(("tcp://127.0.0.1:5590",))),
        ("zmqbroker://a,b:5593,c", ClusterUrl(("tcp://a:5590", "tcp://b:5593", "tcp://c:5590"))),
        ("zmqbroker://a,b,c:5590", ClusterUrl(("tcp://a:5590", "tcp://b:5590", "tcp://c:5590"))),
        ("zmqbroker://a,a:5590", ClusterUrl(("tcp://a:5590",))),
        ("zmqbroker://[::1],[fe80::2]:7", ClusterUrl(("tcp://[::1]:5590", "tcp://[fe80::2]:7"))),
        ("zmqbroker://ann@a,b", ClusterUrl(("tcp://a:5590", "tcp://b:5590"), "ann")),
    ],
)
def test_url_that_is_good_names_its_endpoints(url: str, expected: ClusterUrl) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must begin with"),
        ("localhost:5590", "must begin with"),
        ("http://a", "'http' is not"),
        ("tcp://host", "does not end with a port"),
        ("tcp://host:", "does not end with a port"),
        ("tcp://host:0", "does not end with a port"),
        ("tcp://host:65536", "does not end with a port"),
        ("tcp://host:5590000", "does not end with a port"),
        ("tcp://host:٣", "does not end with a port"),
        ("tcp://host:-1", "does not end with a port"),
        ("tcp://:5590", "does not begin with a host"),
        ("tcp://a b:5590", "does not begin with a host"),
        ("tcp://a/b:5590", "does not begin with a host"),
        ("tcp://*:5590", "does not begin with a host"),
        ("tcp://[::1:5590", "in brackets"),
        ("tcp://[::1]5590", "in brackets"),
        ("tcp://[]:5590", "in brackets"),
        ("zmqbroker://", "does not begin with a host"),
        ("zmqbroker://a,,b", "does not begin with a host"),
        ("zmqbroker://a:x", "does not end with a port"),
        ("zmqbroker://@a", "user before '@' is empty"),
        ("zmqbroker://a?server_key=x", "options after '?'"),
        ("zmqbroker://" + ",".join("abc" for _ in range(33)), "33 hosts"),
        ("ipc://relative", "must be absolute"),
        ("ipc:///" + "x" * 107, "108 bytes"),
        ("ipc:///\udcff", "not valid Unicode"),
        ("tcp://a\udc80:5590", "not valid Unicode"),
    ],
)
def test_url_that_is_bad_is_a_config_error_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        parse_url(url)
    assert reason in str(caught.value)
    assert len(caught.value.faults) == 1


def test_is_endpoint_takes_what_a_node_may_name() -> None:
    assert is_endpoint("tcp://10.0.0.1:5590")
    assert is_endpoint("ipc:///run/x")
    assert not is_endpoint("zmqbroker://a")
    assert not is_endpoint("tcp://10.0.0.1")


def test_split_endpoint_takes_the_brackets_off() -> None:
    assert split_endpoint("tcp://[::1]:5590") == ("::1", 5590)
    assert split_endpoint("tcp://host:1") == ("host", 1)
