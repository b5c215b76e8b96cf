"""deploy/, linted: the image, the compose file, the systemd unit and the example configuration fit the code and each other."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from zmqbroker.cli.app import application
from zmqbroker.config import NodeConfig, describe, load

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SETTINGS = {item.variable for item in describe()}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as instructions with their arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def image_environment() -> dict[str, str]:
    """What ENV sets in the image."""
    pairs = [pair for name, arguments in instructions() if name == "ENV" for pair in arguments.split()]
    return {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs}


def compose() -> dict[str, Any]:
    """compose.yaml with its variables at their defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text())
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def test_dockerfile_two_stages_from_one_base_argument() -> None:
    names = [name for name, _ in instructions()]
    assert names[0] == "ARG"
    assert names.index("ARG") < names.index("FROM")
    assert [arguments.split()[0] for name, arguments in instructions() if name == "FROM"] == ["${BASE_IMAGE}"] * 2
    assert instructions()[0][1].startswith("BASE_IMAGE=")


def test_dockerfile_runtime_stage_compiles_nothing_and_is_not_root() -> None:
    steps = instructions()
    runtime = steps[max(number for number, (name, _) in enumerate(steps) if name == "FROM") :]
    user = next(arguments for name, arguments in runtime if name == "USER")
    assert all(int(part) > 0 for part in user.split(":"))
    after_user = runtime[runtime.index(("USER", user)) :]
    assert "RUN" not in {name for name, _ in after_user}
    assert not any("gcc" in arguments for _, arguments in runtime)
    assert ("VOLUME", "/data") in runtime


def test_dockerfile_commands_are_ours() -> None:
    steps = dict(instructions())
    assert json.loads(steps["ENTRYPOINT"]) == ["zmqbroker"]
    assert json.loads(steps["CMD"])[0] in application.commands
    check = json.loads(steps["HEALTHCHECK"].partition("CMD ")[2])
    assert check[0] == "zmqbroker"
    with application.commands[check[1]].make_context(check[1], check[2:]) as context:
        assert context.params["alive"] is True
        assert context.params["url"] == "tcp://127.0.0.1:5590"


def test_dockerfile_environment_makes_a_valid_node_once_it_is_told_its_address() -> None:
    environment = {name: value for name, value in image_environment().items() if name.startswith("ZMQBROKER_")}
    config = load(None, {**environment, "ZMQBROKER_NODE_ADVERTISE": "tcp://127.0.0.1:5590"}, {})
    assert config.node.data_dir == "/data"
    exposed = dict(instructions())["EXPOSE"].split()
    assert exposed == [config.listen.client[0].rpartition(":")[2], config.listen.peer.rpartition(":")[2]]


def test_dockerfile_copies_only_what_the_context_holds() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    copied = [arguments.split()[:-1] for name, arguments in instructions() if name == "COPY" and "--from" not in arguments]
    assert {source for sources in copied for source in sources} == kept
    assert [source for source in kept if not (ROOT / source).exists()] == []


def test_compose_three_nodes_make_one_cluster() -> None:
    services = compose()["services"]
    base = {name: value for name, value in image_environment().items() if name in SETTINGS}
    configs: dict[str, NodeConfig] = {}
    for name, service in services.items():
        assert set(service["environment"]) <= SETTINGS
        configs[name] = load(None, {**base, **service["environment"]}, {})
    assert len(configs) == 3
    assert len({config.cluster for config in configs.values()}) == 1
    for name, config in configs.items():
        assert config.node.name == name == services[name]["hostname"]
        own = next(peer for peer in config.peers if peer.name == name)
        assert (own.host, str(own.port)) == (name, config.listen.peer.rpartition(":")[2])


def test_compose_published_ports_and_volumes_are_distinct_and_advertised() -> None:
    document = compose()
    services = document["services"]
    published = {name: service["ports"][0].split(":") for name, service in services.items()}
    assert len({outside for outside, _ in published.values()}) == 3
    for name, (outside, inside) in published.items():
        assert services[name]["environment"]["ZMQBROKER_NODE_ADVERTISE"] == f"tcp://127.0.0.1:{outside}"
        assert inside == "5590"
    volumes = [service["volumes"][0].split(":") for service in services.values()]
    assert {name for name, _ in volumes} == set(document["volumes"])
    assert {target for _, target in volumes} == {image_environment()["ZMQBROKER_NODE_DATA_DIR"]}


def test_compose_builds_from_the_dockerfile_that_is_there() -> None:
    for service in compose()["services"].values():
        context = DEPLOY / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


def unit() -> configparser.ConfigParser:
    """The systemd unit; of keys that are repeated the last one counts."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "zmqbroker.service")
    return parser


def test_unit_starts_serve_and_leaves_faults_to_people() -> None:
    service = unit()["Service"]
    command = service["ExecStart"].split()
    assert command[0].endswith("/zmqbroker")
    assert command[1] in application.commands
    assert service["RestartPreventExitStatus"] == "1 2 6"
    assert service["DynamicUser"] == "yes"
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictNamespaces"):
        assert service[key] == "yes"
    variables = re.findall(r"^Environment=(ZMQBROKER_\w+)=", (DEPLOY / "zmqbroker.service").read_text(), re.MULTILINE)
    assert variables
    assert set(variables) <= SETTINGS


def test_unit_is_understood_by_systemd(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    # The command of the unit is not installed here; a file that can be run stands in for it.
    copy = tmp_path / "zmqbroker.service"
    copy.write_text((DEPLOY / "zmqbroker.service").read_text().replace("/opt/zmqbroker/bin/zmqbroker", "/bin/true"))
    done = subprocess.run([tool, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "zmqbroker" in line]
    assert complaints == []


def test_example_configuration_is_valid_and_its_sockets_can_be_reached() -> None:
    config = load((DEPLOY / "zmqbroker.toml").read_text(), {}, {})
    assert (config.size, config.tolerated, config.cluster.volume) == (3, 1, "persistent")
    assert config.client_endpoint == "tcp://broker-1.example.net:5590"
    runtime = unit()["Service"]["RuntimeDirectory"]
    assert [endpoint for endpoint in config.listen.client if endpoint.startswith("ipc:")] == [f"ipc:///run/{runtime}/client"]
