"""How a message asks for a fault: the properties that the SDKs' own end-to-end tests send.

Sources: azure-iot-sdk-csharp e2e FaultInjection.cs, azure-iot-sdk-java ErrorInjectionHelper.java, azure-iot-sdk-node
e2etests d2c_disconnect.js and throttle_disconnect.js, azure-iot-sdk-c e2etests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.fault_limits import FAULT_SECONDS
from muster.sessions.faults import REFUSALS, Fault, Target

OPERATION: Final = "AzIoTHub_FaultOperationType"
REASON: Final = "AzIoTHub_FaultOperationCloseReason"
DELAY: Final = "AzIoTHub_FaultOperationDelayInSecs"
DURATION: Final = "AzIoTHub_FaultOperationDurationInSecs"

_TARGETS: Final = {
    "KillTcp": Target.TRANSPORT,
    "KillAmqpConnection": Target.CONNECTION,
    "KillAmqpSession": Target.SESSION,
    "KillAmqpCBSLinkReq": Target.CREDENTIAL_REQUESTS,
    "KillAmqpCBSLinkResp": Target.CREDENTIAL_ANSWERS,
    "KillAmqpD2CLink": Target.TELEMETRY,
    "KillAmqpC2DLink": Target.COMMANDS,
    "KillAmqpTwinLinkReq": Target.TWIN_REQUESTS,
    "KillAmqpTwinLinkResp": Target.TWIN_ANSWERS,
    "KillAmqpMethodReqLink": Target.METHOD_REQUESTS,
    "KillAmqpMethodRespLink": Target.METHOD_ANSWERS,
    "InvokeThrottling": Target.THROTTLING,
    "InvokeMaxMessageQuota": Target.QUOTA,
    "InvokeAuthError": Target.AUTHORIZATION,
    "ShutDownAmqp": Target.AMQP_GOODBYE,
    "ShutDownMqtt": Target.MQTT_GOODBYE,
}
_GOODBYES: Final = frozenset({Target.AMQP_GOODBYE, Target.MQTT_GOODBYE})
_GRACEFUL: Final = "byebye"
_SECONDS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")
_USUAL_REFUSAL: Final = 5.0
"""How long a refusal lasts when the message does not say, in seconds: as long as the SDKs' own tests ask for."""


def read_fault(application: Mapping[str, object]) -> Fault | None:
    """The fault that a message with these application properties asks for, ``None`` if it asks for none.

    The reason ``byebye`` asks for a goodbye, ``boom`` or any other text for none; a shutdown always says goodbye.
    Raises ``HubError`` 400004 with the name of a property whose value is not understood.
    """
    name = application.get(OPERATION)
    if name is None:
        return None
    target = _TARGETS.get(str(name))
    if target is None:
        raise HubError(ARGUMENT_INVALID, f"{OPERATION} must be one of {', '.join(_TARGETS)}.")
    graceful = target in _GOODBYES or str(application.get(REASON)).lower() == _GRACEFUL
    usual = _USUAL_REFUSAL if target in REFUSALS else 0.0
    return Fault(target, graceful, _seconds(application, DELAY, 0.0), _seconds(application, DURATION, usual))


def _seconds(application: Mapping[str, object], name: str, usual: float) -> float:
    text = application.get(name)
    if text is None:
        return usual
    most = FAULT_SECONDS.open
    if not _SECONDS.fullmatch(str(text)) or float(str(text)) > most:
        raise HubError(ARGUMENT_INVALID, f"{name} must be a number of seconds, {most} at most.")
    return float(str(text))
