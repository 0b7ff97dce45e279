"""``/digitaltwins``: plug and play (service.md 2.10). A module's has ``/modules/{id}`` behind its device."""

from __future__ import annotations

from urllib.parse import quote

from muster.access.roles import DataAction
from muster.core.method_limits import METHOD_LEAST_RESPONSE, METHOD_MOST_TIMEOUT
from muster.core.throttles import TWIN_READS, TWIN_UPDATES
from muster.dialect.digital_twin_bodies import read_operations
from muster.dialect.etag import read_twin_if_match, twin_etag_of
from muster.dialect.method_bodies import payload_text
from muster.heads.http.answers import JSON_TYPE, json_answer
from muster.heads.http.messages import Response
from muster.heads.http.methods import MethodOperations
from muster.heads.http.operations import Call, Operation
from muster.identity.model import IdentityKey
from muster.identity.verdict import Right
from muster.messages.methods import DEFAULT_RESPONSE_SECONDS, Methods
from muster.twins import digital
from muster.twins.service import Twins


class DigitalTwinOperations:
    """Digital twins of one hub; their commands are direct methods."""

    def __init__(self, twins: Twins, methods: Methods, spelling: MethodOperations) -> None:
        """``spelling`` makes the refusals of commands, which are those of methods."""
        self._twins = twins
        self._methods = methods
        self._spelling = spelling

    def table(self) -> list[Operation]:
        """The rows for the operation table. A command whose caller goes is given up."""
        right, rows, invoke = Right.SERVICE_CONNECT, [], (DataAction.METHODS_INVOKE,)
        for path in ("/digitaltwins/{device_id}", "/digitaltwins/{device_id}/modules/{module_id}"):
            rows += [
                Operation("GET", path, right, self.get, throttle=TWIN_READS, actions=(DataAction.TWINS_READ,)),
                Operation(
                    "PATCH",
                    path,
                    right,
                    self.patch,
                    throttle=TWIN_UPDATES,
                    actions=(DataAction.TWINS_WRITE,),
                    changes="digitaltwin.patch",
                ),
            ]
            for place in ("", "/components/{component}"):
                command = f"{path}{place}/commands/{{command}}"
                rows.append(
                    Operation("POST", command, right, self.command, True, self._spelling.refuse, actions=invoke)
                )
        return rows

    async def get(self, call: Call) -> Response:
        """The digital twin."""
        key = _key(call)
        twin = await self._twins.get(key)
        return json_answer(digital.view(str(key), twin), etag=twin_etag_of(twin.revision))

    async def patch(self, call: Call) -> Response:
        """Apply a JSON Patch to what is desired: 202 without a body. The device does the rest when it hears of it."""
        key = _key(call)
        revision = read_twin_if_match(call.request.said.if_match)
        twin = await self._twins.patch_digital(key, read_operations(await call.json()), revision, call.act)
        location = f"/{quote(call.path, safe='/')}"
        return Response(status=202, headers={"ETag": f'"{twin_etag_of(twin.revision)}"', "Location": location})

    async def command(self, call: Call) -> Response:
        """Call a command and wait: 200 with what the device answered, its status in a header.

        Raises as ``Methods.invoke``, and 400004 for a timeout that is none.
        """
        name, component = call.parameters["command"], call.parameters.get("component")
        most = METHOD_MOST_TIMEOUT.open
        answer = await self._methods.invoke(
            _key(call),
            name if component is None else f"{component}*{name}",
            payload_text(await call.json()) if call.request.has_body else None,
            connect_timeout=call.number("connectTimeoutInSeconds", 0, most, default=0),
            response_timeout=call.number(
                "responseTimeoutInSeconds", METHOD_LEAST_RESPONSE.open, most, default=DEFAULT_RESPONSE_SECONDS
            ),
            caller=call.caller,
            tracking_id=call.tracking_id,
        )
        headers = {"Content-Type": JSON_TYPE, "x-ms-command-statuscode": str(answer.status)}
        return Response(body=answer.payload, headers=headers)


def _key(call: Call) -> IdentityKey:
    return IdentityKey(call.parameters["device_id"], call.parameters.get("module_id"))
