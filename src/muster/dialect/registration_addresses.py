"""How devices name themselves to the provisioning service over MQTT and AMQP (provisioning.md 2.1, 2.2, 3.1, 3.2)."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, INVALID_PROTOCOL_VERSION, HubError
from muster.dialect.amqp import address_path
from muster.dialect.api_version import check_api_version
from muster.identity.mistakes import shown

USER_NAME_FORM = "{id scope}/registrations/{registration id}/api-version=2021-06-01"
RESPONSES = "$dps/registrations/res/#"
"""The one filter that a device may subscribe to."""

_WORD = "registrations"
_REGISTER = "$dps/registrations/PUT/iotdps-register/?"
_STATUS = "$dps/registrations/GET/iotdps-get-operationstatus/?"
REQUEST_FORMS = f"{_REGISTER}$rid={{rid}} or {_STATUS}$rid={{rid}}&operationId={{id}}"
_RID = re.compile(r"[A-Za-z0-9._~:%-]{1,128}")
"""What an answer's topic can say again: SDKs split it at all that is left out here."""


class RegistrationAddress(NamedTuple):
    """Which registration a device means, in its own words."""

    id_scope: str
    registration_id: str
    api_version: str


class RegistrationRequest(NamedTuple):
    """What a topic asks for: a registration, or what became of ``operation_id`` where that is not ``None``."""

    rid: str
    operation_id: str | None = None


def registration_path(path: tuple[str, ...]) -> tuple[str, str] | None:
    """Id scope and registration id of an address ``{id scope}/registrations/{id}``; ``None`` for any other."""
    return (path[0], path[2]) if len(path) == 3 and path[1].lower() == _WORD else None


def plain_registration(user: str) -> tuple[str, str] | None:
    """The same of the user name of SASL PLAIN."""
    return registration_path(address_path(user))


def is_registration(user_name: str) -> bool:
    """Whether an MQTT user name has the form of those for the provisioning service, sound or not."""
    return user_name.split("/", 2)[1:2] == [_WORD]


def registration_user_name(text: str) -> RegistrationAddress:
    """Read an MQTT user name ``{id scope}/registrations/{id}/api-version={version}&ClientVersion={agent}``.

    Raises ``HubError`` 400004 when it has another shape, 400001 for its version.
    """
    scope, _, rest = text.partition("/")
    registration_id, _, query = rest.partition("/")[2].partition("/")
    if not scope or not registration_id:
        raise HubError(ARGUMENT_INVALID, f"The user name {shown(text)!r} is malformed. Send {USER_NAME_FORM}")
    for item in query.removeprefix("?").split("&"):
        name, _, value = item.partition("=")
        if name == "api-version":
            check_api_version(value)
            return RegistrationAddress(unquote(scope), unquote(registration_id), value)
    raise HubError(INVALID_PROTOCOL_VERSION, f"The user name names no api-version. Send {USER_NAME_FORM}")


def registration_request(topic: bytes) -> RegistrationRequest:
    """Read the topic of a request. Raises ``HubError`` 400003 when it is none."""
    text = topic.decode()
    for prefix in (_REGISTER, _STATUS):
        if text.startswith(prefix):
            items = dict(item.partition("=")[::2] for item in text[len(prefix) :].split("&"))
            rid, operation_id = items.get("$rid", ""), unquote(items.get("operationId", ""))
            if not _RID.fullmatch(rid):
                raise _wrong(text, "its $rid is missing or not 1 to 128 letters, digits and . _ ~ : -")
            if prefix == _REGISTER:
                return RegistrationRequest(rid)
            if not operation_id:
                raise _wrong(text, "it names no operationId")
            return RegistrationRequest(rid, operation_id)
    raise _wrong(text, "nothing is asked for there")


def _wrong(topic: str, why: str) -> HubError:
    return HubError(INVALID_OPERATION, f"The topic {shown(topic)!r} is no request: {why}. Publish to {REQUEST_FORMS}")


def response_topic(status: int, rid: str, retry_after: int) -> str:
    """The topic of an answer; ``$rid`` comes first (C#), and ``retry-after`` only where the device shall ask again."""
    later = f"&retry-after={retry_after}" if retry_after else ""
    return f"$dps/registrations/res/{status}/?$rid={rid}{later}"
