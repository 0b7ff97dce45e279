"""A deployment as azure-mgmt-iothub sees it, and the credential that its page shows."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.mgmt.iothub import IotHubClient

from muster.dialect.connection_string import parse_connection_string
from muster.identity.sas import make
from muster.testing.hub import HubProcess

SUBSCRIPTION, GROUP = "91d12660-3dec-467a-be2a-213b5544ddc0", "plant"
SCOPES = ["https://management.azure.com/.default"]


class PolicyCredential:
    """A shared access policy in the place of Azure's credential."""

    def __init__(self, connection_string: str) -> None:
        self.policy = parse_connection_string(connection_string)

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        expiry = int(time.time()) + 3600
        return AccessToken(make(self.policy.host, expiry, self.policy.key_bytes, self.policy.policy), expiry)


class Managed:
    """A running node, the first hub's management client, and an address for a second hub."""

    def __init__(self, process: HubProcess, other: str) -> None:
        self.process, self.other = process, other
        self.client = self.client_of(process.facts["HUB_CONNECTION_STRING"])

    @property
    def name(self) -> str:
        return self.process.address

    def client_of(self, connection_string: str, address: str = "") -> IotHubClient:
        return self.with_credential(PolicyCredential(connection_string), address=address)

    def with_credential(self, credential: Any, scopes: list[str] = SCOPES, address: str = "") -> IotHubClient:
        return IotHubClient(
            credential, SUBSCRIPTION, credential_scopes=scopes, connection_verify=self.process.facts["HUB_CA_FILE"],
            base_url=f"https://{address or self.name}:{self.process.port('https')}",
        )  # fmt: skip

    def body(self, **more: Any) -> dict[str, Any]:
        tags = {"muster-host-names": self.other, "line": "7"}
        return {"location": "westeurope", "sku": {"name": "S1", "capacity": 1}, "tags": tags, "properties": {}, **more}

    def make(self, name: str, **more: Any) -> Any:
        return self.client.iot_hub_resource.begin_create_or_update(GROUP, name, self.body(**more)).result()


def refusal(call: Callable[[], Any]) -> HttpResponseError:
    with pytest.raises(HttpResponseError) as caught:
        finish(call())
    return caught.value


def finish(answer: Any) -> Any:
    """The whole of what an operation answers: pollers to their end, pages to the last."""
    if hasattr(answer, "result"):
        return answer.result()
    return list(answer) if hasattr(answer, "by_page") else answer


def operations_of(client: object, groups: Iterable[str]) -> set[str]:
    """Every operation of an SDK's client, found by looking."""
    return {
        f"{group}.{name}"
        for group in groups
        for name, _ in inspect.getmembers(type(getattr(client, group)), inspect.isfunction)
        if not name.startswith("_")
    }
