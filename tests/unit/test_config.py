"""config: sources and their precedence, every fault at once, and what the settings say about the cluster."""

from __future__ import annotations

from typing import Any

import pytest

from zmqbroker.config import (
    CLUSTER_SIZE_MAX,
    LimitsConfig,
    NodeConfig,
    NodeSection,
    RaftTimingConfig,
    describe,
    load,
    split_address,
    variable_name,
    with_files,
)
from zmqbroker.errors import ConfigError

THREE = "a=10.0.0.1:5591,b=10.0.0.2:5591,c=10.0.0.3:5591"


def faults_of(
    toml: str | None = None, environment: dict[str, str] | None = None, flags: dict[str, Any] | None = None
) -> list[str]:
    """The faults of a configuration, sorted."""
    with pytest.raises(ConfigError) as caught:
        load(toml, environment or {}, flags or {})
    return sorted(caught.value.faults)


def test_load_nothing_given_makes_one_node_on_loopback() -> None:
    config = load(None, {}, {})
    assert (config.size, config.majority, config.tolerated) == (1, 1, 0)
    assert config.node.data_dir == "./zmqbroker-data"
    assert config.client_endpoint == "tcp://127.0.0.1:5590"
    assert [(peer.name, peer.address) for peer in config.peers] == [("node-1", "127.0.0.1:5591")]
    assert config.limits.message_bytes_max == 4 << 20
    assert config.storage.segment_bytes == 64 << 20
    assert config.storage.log_budget_bytes == 4 << 30
    assert config == NodeConfig()


def test_load_flags_win_over_environment_over_file_over_defaults() -> None:
    toml = '[raft]\ntick_ms = 11\nheartbeat_ticks = 4\n[log]\nlevel = "debug"\n'
    environment = {"ZMQBROKER_RAFT_TICK_MS": "12", "ZMQBROKER_RAFT_HEARTBEAT_TICKS": "5"}
    config = load(toml, environment, {"raft.tick_ms": 13})
    assert (config.raft.tick_ms, config.raft.heartbeat_ticks, config.log.level, config.raft.election_ticks) == (
        13,
        5,
        "debug",
        20,
    )


def test_load_texts_in_environment_and_flags_stand_for_every_type() -> None:
    config = load(
        None,
        {
            "ZMQBROKER_NODE_NAME": "b",
            "ZMQBROKER_CLUSTER_PEERS": f" {THREE} , ",
            "ZMQBROKER_STORAGE_ALLOW_NETWORK_FILE_SYSTEM": "Yes",
            "ZMQBROKER_LIMITS_SESSIONS_MAX": "1_000",
        },
        {"listen.client": ("tcp://0.0.0.0:5590", "ipc:///run/b"), "storage.allow_network_file_system": "false"},
    )
    assert config.cluster.peers == tuple(THREE.split(","))
    assert config.storage.allow_network_file_system is False
    assert config.limits.sessions_max == 1_000
    assert config.client_endpoint == "tcp://10.0.0.2:5590"


def test_load_one_text_in_the_file_is_a_list_of_one() -> None:
    assert load('[listen]\nclient = "ipc:///run/a"\n', {}, {}).listen.client == ("ipc:///run/a",)


def test_load_many_faults_reports_all_of_them() -> None:
    found = faults_of(
        '[node]\nnam = "x"\n[raft]\ntick_ms = 0\nheartbeat_ticks = true\n[http]\nport = 1\n[storage]\nflush_ms = "200"\n',
        {"ZMQBROKER_LIMITS_MESSAGE_BYTES_MAX": "lots", "ZMQBROKER_LOG_LEVL": "info", "HOME": "/x"},
        {"cluster.volume": "forever", "storage.allow_network_file_system": "perhaps"},
    )
    assert found == [
        "ZMQBROKER_LIMITS_MESSAGE_BYTES_MAX: 'lots' is not a whole number",
        "ZMQBROKER_LOG_LEVL: there is no such setting",
        "[http]: there is no such table; tables are node, cluster, listen, raft, storage, limits, channels, log",
        "[node] nam: there is no such setting",
        "[raft] heartbeat_ticks: True is not a whole number",
        "[raft] tick_ms: 0 is not between 1 and 1000",
        "[storage] flush_ms: '200' is not a whole number",
        "flag cluster.volume: 'forever' is not one of ephemeral, persistent",
        "flag storage.allow_network_file_system: 'perhaps' is not true or false",
    ]


@pytest.mark.parametrize(
    ("toml", "fault"),
    [
        ("node = 3\n", "[node]: this is a table, not a value"),
        ("[node\n", "the file is not TOML: Expected ']' at the end of a table declaration (at line 1, column 6)"),
        ("[cluster]\npeers = [1]\n", "[cluster] peers: [1] is not a list of texts"),
        ("[cluster]\npeers = 1\n", "[cluster] peers: 1 is not a list of texts"),
        ("[node]\nname = 1.5\n", "[node] name: 1.5 is not a text"),
    ],
)
def test_load_file_of_wrong_form_is_a_fault(toml: str, fault: str) -> None:
    assert faults_of(toml) == [fault]


def test_load_reserved_and_service_variables_are_ignored() -> None:
    environment = {
        "ZMQBROKER_CONFIG": "x",
        "ZMQBROKER_URL": "tcp://h:1",
        "ZMQBROKER_PURE": "1",
        "ZMQBROKER_OWNER": "dev",
        "ZMQBROKER_PORT": "tcp://10.0.0.1:5590",
        "ZMQBROKER_NODE_SERVICE_HOST": "10.0.0.1",
        "ZMQBROKER_SERVICE_PORT_CLIENT": "5590",
        "ZMQBROKER_PORT_5590_TCP_ADDR": "10.0.0.1",
    }
    assert load(None, environment, {}) == NodeConfig()


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("node.name", "a b", "'a b' is not a name: 1 to 63 letters"),
        ("cluster.name", "", "'' is not a name"),
        ("node.data_dir", "", "'' is not a path"),
        ("listen.client", (), "there are 0 endpoints, not 1 to 8"),
        ("listen.client", ("tcp://h",), "'tcp://h' is neither tcp://host:port nor ipc:///path"),
        ("listen.client", ("udp://h:1",), "'udp://h:1' is neither"),
        ("listen.client", ("tcp://h:65536",), "'tcp://h:65536' is neither"),
        ("listen.client", ("ipc://relative",), "'ipc://relative' is neither"),
        ("listen.client", ("ipc:///" + "x" * 107,), "has more than 107 bytes"),
        ("listen.client", ("tcp://0.0.0.0:5590",), "clients cannot be told 0.0.0.0 (listen.client)"),
        ("listen.peer", "5591", "'5591' is not host:port"),
        ("listen.peer", "127.0.0.1:5590", "127.0.0.1:5590 is an address of listen.client too"),
        ("node.advertise", "h:1", "'h:1' is neither tcp://host:port nor ipc:///path"),
        ("node.advertise", "tcp://0.0.0.0:5590", "clients cannot connect to tcp://0.0.0.0:5590"),
        ("node.advertise", "tcp://h:0", "clients cannot connect to tcp://h:0"),
        ("raft.election_ticks", 5, "5 is less than twice raft.heartbeat_ticks (3)"),
        ("raft.uncommitted_bytes_max", 1 << 20, "1048576 is less than the largest batch"),
        ("limits.message_bytes_max", (64 << 20) + 1, "67108865 is not between 1024 and 67108864"),
        ("storage.log_budget_bytes", 1 << 27, "134217728 is less than four segments of 67108864"),
    ],
)
def test_load_value_that_breaks_a_rule_is_a_fault_with_the_value(key: str, value: Any, fault: str) -> None:
    found = faults_of(flags={key: value})
    assert len(found) == 1
    assert fault in found[0]
    assert key in found[0] or found[0].startswith("node.advertise")


@pytest.mark.parametrize(
    ("peers", "fault"),
    [
        ("node-1=h:1,node-1=h:2", "the name node-1 is there 2 times"),
        ("node-1=h:1,b=h:1", "the address h:1 is there 2 times"),
        ("node-1=h:1,b", "'b' is not name=host:port"),
        ("node-1=h:1,b b=h:2", "'b b=h:2' is not name=host:port"),
        ("node-1=h:1,b=0.0.0.0:2", "the other nodes cannot connect to 0.0.0.0"),
        ("a=h:1,b=h:2", "node-1 is not among the names of cluster.peers: a, b"),
        (
            ",".join(["node-1=h:1", *(f"n{number}=h:1{number}" for number in range(CLUSTER_SIZE_MAX))]),
            "10 nodes are more than 9",
        ),
    ],
)
def test_load_peers_that_cannot_be_a_cluster_are_a_fault(peers: str, fault: str) -> None:
    found = faults_of(flags={"cluster.peers": peers})
    assert len(found) == 1
    assert fault in found[0]


def test_constructor_invalid_values_raise_all_faults() -> None:
    with pytest.raises(ConfigError) as caught:
        NodeConfig(node=NodeSection(name=""), raft=RaftTimingConfig(tick_ms=0), limits=LimitsConfig(requests_max=0))
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["raft.tick_ms", "limits.requests_max", "node.name"]


@pytest.mark.parametrize(
    ("size", "majority", "tolerated"),
    [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2), (6, 4, 2), (7, 4, 3), (8, 5, 3), (9, 5, 4)],
)
def test_size_each_cluster_has_the_majority_of_the_reference(size: int, majority: int, tolerated: int) -> None:
    peers = ",".join(f"node-{number}=h:{number}" for number in range(1, size + 1))
    config = load(None, {}, {"cluster.peers": peers})
    assert (config.size, config.majority, config.tolerated) == (size, majority, tolerated)
    assert (config.even_size_warning is not None) == (size % 2 == 0)


def test_even_size_warning_four_nodes_says_what_is_tolerated() -> None:
    config = load(None, {}, {"cluster.peers": "node-1=h:1,b=h:2,c=h:3,d=h:4"})
    assert config.even_size_warning == "4 nodes tolerate 1 failed, no more than 3 nodes would: use 3 nodes, or 5 to tolerate 2"


def test_peers_any_order_are_sorted_by_name() -> None:
    config = load(None, {}, {"node.name": "b", "cluster.peers": "c=h:3,b=[::1]:2,a=h:1"})
    assert [peer.name for peer in config.peers] == ["a", "b", "c"]
    assert config.peers[1].address == "[::1]:2"


@pytest.mark.parametrize(
    ("flags", "endpoint"),
    [
        ({"node.advertise": "tcp://public:1"}, "tcp://public:1"),
        ({"listen.client": ("ipc:///run/x",)}, "ipc:///run/x"),
        ({"listen.client": ("ipc:///run/x", "tcp://10.1.1.1:7")}, "tcp://10.1.1.1:7"),
        ({"listen.client": "tcp://*:7", "node.name": "c", "cluster.peers": THREE}, "tcp://10.0.0.3:7"),
        ({"listen.client": "tcp://[::]:7", "node.name": "c", "cluster.peers": "c=[fd00::1]:1"}, "tcp://[fd00::1]:7"),
    ],
)
def test_client_endpoint_is_one_that_clients_can_connect_to(flags: dict[str, Any], endpoint: str) -> None:
    assert load(None, {}, flags).client_endpoint == endpoint


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("h:1", ("h", 1)),
        ("[::1]:5590", ("::1", 5590)),
        ("h:0", ("h", 0)),
        ("h", None),
        ("::1:5590", None),
        ("h:65536", None),
        ("h:-1", None),
        (":1", None),
        ("h /x:1", None),
    ],
)
def test_split_address_reads_host_and_port_or_nothing(text: str, address: tuple[str, int] | None) -> None:
    assert split_address(text) == address


def test_for_test_is_tiny_and_can_be_changed() -> None:
    config = NodeConfig.for_test({"node.name": "b", "cluster.peers": ("b=127.0.0.1:0", "a=127.0.0.1:0")})
    assert config.size == 2
    assert config.storage.segment_bytes < NodeConfig().storage.segment_bytes
    assert config.limits.message_bytes_max < NodeConfig().limits.message_bytes_max


def test_batch_bytes_max_is_a_message_and_room_for_its_header() -> None:
    assert LimitsConfig(message_bytes_max=1024).batch_bytes_max == 1024 + (1 << 20)


def test_with_files_reads_each_named_file_once_and_keeps_the_rest() -> None:
    read: list[str] = []

    def reader(path: str) -> str:
        read.append(path)
        return "persistent\n"

    environment = {
        "ZMQBROKER_CLUSTER_VOLUME_FILE": "/run/secrets/volume",
        "ZMQBROKER_LOG_LEVEL_FILE": "/run/secrets/level",
        "ZMQBROKER_LOG_LEVEL": "debug",
        "OTHER_FILE": "x",
    }
    assert with_files(environment, reader) == {
        "ZMQBROKER_CLUSTER_VOLUME": "persistent",
        "ZMQBROKER_LOG_LEVEL": "debug",
        "OTHER_FILE": "x",
    }
    assert read == ["/run/secrets/volume"]


def test_with_files_unreadable_files_are_all_reported() -> None:
    def reader(path: str) -> str:
        raise FileNotFoundError(2, "No such file or directory", path)

    with pytest.raises(ConfigError) as caught:
        with_files({"ZMQBROKER_CLUSTER_VOLUME_FILE": "/a", "ZMQBROKER_NODE_NAME_FILE": "/b"}, reader)
    assert caught.value.faults == (
        "ZMQBROKER_NODE_NAME_FILE: /b cannot be read: No such file or directory",
        "ZMQBROKER_CLUSTER_VOLUME_FILE: /a cannot be read: No such file or directory",
    )


def test_with_files_that_are_no_text_are_reported() -> None:
    with pytest.raises(ConfigError, match="ZMQBROKER_CLUSTER_VOLUME_FILE: /a cannot be read: 'utf-8' codec"):
        with_files({"ZMQBROKER_CLUSTER_VOLUME_FILE": "/a"}, lambda path: b"\xff".decode())


@pytest.mark.parametrize("text", ["[raft]\ntick_ms = " + "9" * 5000, "a = " + "[" * 50_000, "a = 1-"])
def test_load_of_what_toml_cannot_take_is_a_fault(text: str) -> None:
    with pytest.raises(ConfigError, match="the file is not TOML"):
        load(text, {}, {})


@pytest.mark.parametrize(
    ("key", "value"),
    [("listen.client", "ipc:///\udcff"), ("listen.client", "tcp://a\udc80:5590"), ("listen.peer", "a\udc80:5591")],
)
def test_load_of_an_address_that_is_no_unicode_is_a_fault(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable_name(*key.split("."))):
        load(None, {variable_name(*key.split(".")): value}, {})


def test_describe_every_key_names_variable_default_and_meaning() -> None:
    described = {item.key: item for item in describe()}
    assert described["storage.segment_bytes"].variable == variable_name("storage", "segment_bytes")
    assert described["cluster.volume"].allowed == "ephemeral, persistent"
    assert described["raft.tick_ms"].allowed == "1 … 1000"
    for item in described.values():
        assert load(None, {item.variable: _as_text(item.default)} if item.default != () else {}, {}) == NodeConfig()
        assert item.meaning


def _as_text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
