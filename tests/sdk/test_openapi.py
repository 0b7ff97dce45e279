"""The hub held to its own description of its REST surface by schemathesis: whatever the description lets a client send
is answered as it says, and what it does not let is refused; nothing makes the hub fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi import checks

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import hub_process

pytestmark = pytest.mark.sdk

ENDLESS = ["/$muster/monitor"]
"""Answers without an end; tests/behaviour has its own."""
KNOWN = {"device_id": "d1", "module_id": "m1"}
PATIENCE = "connectTimeoutInSeconds"
EXAMPLES = 6
HELD_TO = [
    not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_schema_conformance, checks.unsupported_method, checks.ignored_auth,
]  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    ports = [option for name in ("mqtt", "amqp", "https") for option in (f"--{name}-port", "0")]
    with hub_process(tmp_path_factory.mktemp("openapi"), loopback(), *ports, "--sync", "off") as hub:
        yield hub


@pytest.fixture(scope="module")
def description(hub: HubProcess) -> dict[str, Any]:
    address = f"https://{hub.address}:{hub.port('https')}/$muster/openapi"
    told: dict[str, Any] = requests.get(address, verify=hub.facts["HUB_CA_FILE"], timeout=30).json()
    return told


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("mode", "named"),
    [(GenerationMode.POSITIVE, KNOWN), (GenerationMode.POSITIVE, {}), (GenerationMode.NEGATIVE, {})],
    ids=["of-a-known-device", "of-anything", "not-as-described"],
)
def test_every_operation_answers_as_it_is_described(
    hub: HubProcess, description: dict[str, Any], mode: GenerationMode, named: dict[str, str]
) -> None:
    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=f"https://{hub.address}:{hub.port('https')}", tls_verify=hub.facts["HUB_CA_FILE"])
    operations = [found.ok() for found in schema.exclude(path=ENDLESS).get_all_operations()]
    assert len(operations) > 100
    token, statuses, broken = hub.owner_token(), Counter[int](), []
    for operation in operations:
        hub.request("PUT", "/devices/d1", {"deviceId": "d1"})  # the last one may have removed it
        hub.request("PUT", "/devices/d1/modules/m1", {"deviceId": "d1", "moduleId": "m1"})

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode))
        def hold(case: schemathesis.Case) -> None:
            case.path_parameters.update({name: named[name] for name in case.path_parameters if name in named})
            if isinstance(case.body, dict) and isinstance(case.body.get(PATIENCE), int | float):
                case.body[PATIENCE] = 0  # else the call waits for the device, minutes if so asked
            answer = case.call(headers={"Authorization": token}, timeout=60)
            statuses[answer.status_code // 100] += 1
            case.validate_response(answer, checks=HELD_TO)

        try:
            hold()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, operation.label
        except (FailureGroup, Failure) as failed:
            broken.append(f"{operation.label}: {failed}")
    assert not broken, "\n\n".join(broken)
    if mode is GenerationMode.POSITIVE:  # what is not as described need not be accepted even once
        assert statuses[2] > (100 if named else 0), statuses
    assert statuses[4] > 100, statuses
