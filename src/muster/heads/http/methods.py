"""``/twins/{id}/methods``: direct methods (service.md 2.11), and ``/$muster/methods``: those of the past."""

from __future__ import annotations

from muster.access.roles import DataAction
from muster.core.ambient import Ambient
from muster.core.errors import HubError
from muster.dialect.method_bodies import answer_body, error_body, history_body, read_call
from muster.heads.http.answers import JSON_TYPE, json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.model import IdentityKey
from muster.identity.verdict import Right
from muster.messages.methods import Methods

_MOST_REMEMBERED = 1000


class MethodOperations:
    """Direct methods of one hub."""

    def __init__(self, methods: Methods, ambient: Ambient) -> None:
        self._methods = methods
        self._ambient = ambient

    def table(self) -> list[Operation]:
        """The rows for the operation table. A call whose caller goes is given up."""
        right, path = Right.SERVICE_CONNECT, "/twins/{device_id}/methods"
        module = "/twins/{device_id}/modules/{module_id}/methods"
        seen, actions = (DataAction.DEVICES_READ,), (DataAction.METHODS_INVOKE,)
        return [
            *(
                Operation("POST", place, right, self.invoke, True, self.refuse, True, by_modules=True, actions=actions)
                for place in (path, module)
            ),
            Operation("GET", "/$muster/methods", Right.REGISTRY_READ, self.history, actions=seen),
        ]

    async def invoke(self, call: Call) -> Response:
        """Call a method; 200 whatever status the device answers. Raises as ``Methods.invoke`` and ``read_call``."""
        wanted = read_call(await call.json_object())
        answer = await self._methods.invoke(
            IdentityKey(call.parameters["device_id"], call.parameters.get("module_id")),
            wanted.name,
            wanted.payload,
            connect_timeout=wanted.connect_timeout,
            response_timeout=wanted.response_timeout,
            caller=call.caller,
            tracking_id=call.tracking_id,
        )
        return Response(body=answer_body(answer), headers={"Content-Type": JSON_TYPE})

    def refuse(self, error: HubError, tracking_id: str) -> Response:
        """A refusal in shape B, its name in ``iothub-errorcode`` (service.md 2.3)."""
        answer = json_answer(error_body(error, tracking_id, self._ambient.now()), error.row.status)
        answer.headers["iothub-errorcode"] = error.row.name
        return answer

    async def history(self, call: Call) -> Response:
        """``{"methods": [...]}``: calls that have ended since the hub's start, newest first.

        Query: ``device`` for those to a device and its modules, ``count`` (1 to 1000, default 20) for how many.
        Raises ``HubError`` 400004 for a wrong ``count``.
        """
        count = call.number("count", 1, _MOST_REMEMBERED, default=20)
        found = self._methods.history(call.query("device"), count)
        return json_answer({"methods": [history_body(one) for one in found]})
