"""Custom allocation: a webhook is asked which hub a device shall get, with which initial twin (provisioning.md 7.4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from muster.core.errors import HubError
from muster.core.provisioning_errors import CUSTOM_ALLOCATION_FAILED
from muster.identity.mistakes import shown
from muster.provisioning.allocation.candidate import Candidate
from muster.provisioning.contract import Webhook, WebhookError
from muster.provisioning.model import Content, CustomAllocation, DeviceData
from muster.twins import rules


class Allocation(NamedTuple):
    """What a webhook has decided: the hub, the initial twin (``None``: the enrollment's), and what the device is told
    besides."""

    hub: Candidate
    data: DeviceData | None
    payload: Any


async def ask(webhook: Webhook, definition: CustomAllocation, body: Content, hubs: Sequence[Candidate]) -> Allocation:
    """The webhook's decision. Raises ``HubError`` 400207 for one that does not answer as it should."""
    try:
        answer = await webhook(definition.url, json.dumps(body).encode())
        return _read(json.loads(answer), hubs)
    except WebhookError as error:
        what = f" with status code: {error.status}" if error.status else f": {error}"
        raise HubError(CUSTOM_ALLOCATION_FAILED, f"Custom allocation failed{what}") from error
    except (ValueError, RecursionError) as error:
        raise HubError(
            CUSTOM_ALLOCATION_FAILED, "Custom allocation failed: the webhook's answer is not JSON"
        ) from error


def _read(answer: Any, hubs: Sequence[Candidate]) -> Allocation:
    if not isinstance(answer, dict) or not isinstance(answer.get("iotHubHostName"), str):
        raise WebhookError("the webhook's answer has no iotHubHostName")
    host = answer["iotHubHostName"]
    hub = next((one for one in hubs if one.host == host.lower()), None)
    if hub is None:
        raise WebhookError(f"the webhook named {shown(host)}, which is not one of linkedHubs")
    twin = answer.get("initialTwin")
    return Allocation(hub, None if twin is None else read_twin(twin), answer.get("payload"))


def read_twin(twin: Any) -> DeviceData:
    """The initial twin in a webhook's answer. Raises ``WebhookError``."""
    properties = twin.get("properties") if isinstance(twin, dict) else None
    if not isinstance(twin, dict) or not isinstance(properties, dict | None):
        raise WebhookError("the webhook's initialTwin is not an object")
    try:
        tags = rules.check_content(rules.TAGS, twin.get("tags") or {})
        desired = rules.check_content(rules.DESIRED, (properties or {}).get("desired") or {})
    except HubError as error:
        raise WebhookError(f"the webhook's initialTwin: {error.message}") from error
    return DeviceData(tags, desired)
