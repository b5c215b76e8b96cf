"""Every field of every request with values that are not for it, at a real node: refused in the codec's words; it serves on."""

from __future__ import annotations

import pytest

from tests.integration.wild import only_node, serves
from tests.processes import Cluster
from tests.raw import Raw
from tests.unit.wire.test_every_field import cases, miscounted, samples
from zmqbroker.errors import RequestError
from zmqbroker.wire.frames import Request

#: Requests under way at a time: their replies fit a client's pipe.
CHUNK = 500


@pytest.mark.parametrize("command", Request, ids=lambda command: command.name)
def test_node_refuses_every_wrong_field_as_the_codec_does(solo: Cluster, command: Request) -> None:
    node = only_node(solo)
    found = [(case, case.fault()) for case in cases(command)]
    wrong = [(case, error) for case, error in found if error is not None]
    with Raw(node.endpoint) as raw:
        for start in range(0, len(wrong), CHUNK):
            asked: dict[int, RequestError] = {}
            for case, error in wrong[start : start + CHUNK]:
                asked[raw.send(command, case.fields, case.bodies)] = error
            answers = raw.receive_all(list(asked), 30)
            told = {number: (answer.code, answer.fields["message"]) for number, answer in answers.items()}
            assert told == {number: (error.code, error.message) for number, error in asked.items()}
        fields, _ = samples(command)[0]
        for bodies in miscounted(command):
            assert raw.ask(command, fields, bodies).code == "MALFORMED_FRAME"
    assert serves(node)
