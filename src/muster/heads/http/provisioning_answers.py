"""How the provisioning service's REST API answers: refusals in its own shape, callers judged by its own policies, lists
page by page (provisioning.md 5.5, 7.1 and 7.2)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any

from muster.access.roles import Action
from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.limits import Profile
from muster.core.meters import Meters
from muster.core.provisioning_limits import ENROLLMENT_PAGE
from muster.core.throttles import PROVISIONING
from muster.dialect.api_version import check_api_version
from muster.dialect.registration_bodies import error_body
from muster.heads.http.answers import json_answer
from muster.heads.http.auth import ServiceGate, authorize
from muster.heads.http.messages import Response
from muster.heads.http.network import check_network
from muster.heads.http.operations import Call, MethodNotAllowed, Operation
from muster.identity.network import Target
from muster.identity.network_access import NetworkAccess
from muster.identity.verdict import Right
from muster.provisioning.ids import check_id

_SIZE, _CONTINUATION, _TYPE = "x-ms-max-item-count", "x-ms-continuation", "x-ms-item-type"

Handler = Callable[[Call], Awaitable[Response]]
Page = Callable[[str, int], Awaitable[Sequence[tuple[str, dict[str, Any]]]]]
"""``(after, limit) -> rows``, each with the id that it is found by."""


class ProvisioningAnswers:
    """What all operations of the provisioning service share."""

    def __init__(
        self,
        scope: str,
        gate: ServiceGate,
        ambient: Ambient,
        profile: Profile,
        *,
        meters: Meters | None = None,
        network: NetworkAccess | None = None,
    ) -> None:
        """``gate`` judges callers by the policies of the provisioning service ``scope``, ``network`` where they come
        from."""
        self.scope = scope
        self._meters = Meters(ambient) if meters is None else meters
        self._gate = gate
        self._network = network
        self._ambient = ambient
        self._most = ENROLLMENT_PAGE.under(profile)

    def operation(
        self, method: str, path: str, right: Right, handler: Handler, *actions: Action, changes: str = ""
    ) -> Operation:
        """A row of the operation table for callers with ``right`` at the provisioning service, or, of bearer tokens,
        with roles for all ``actions``; see ``Operation``."""

        @wraps(handler)
        async def judged(call: Call) -> Response:
            check_api_version(call.query("api-version"))
            if self._network is not None:
                check_network(call, self._network, Target.SERVICE)
            verdict = authorize(call, right, self._gate, actions)
            if verdict is not None:
                await verdict
            self._meters.take_principal(call.caller)
            self._meters.take(PROVISIONING)
            return await handler(call)

        return Operation(
            method, path, None, judged, refuse=self.refuse, anywhere=True, actions=actions, changes=changes,
            scope=self.scope, judges=True,
        )  # fmt: skip

    def refuse(self, error: HubError, tracking_id: str) -> Response:
        """A refusal."""
        answer = json_answer(error_body(error, tracking_id, self._ambient.now()), error.row.status)
        answer.headers["x-ms-error-code"] = str(error.row.code)
        if isinstance(error, MethodNotAllowed):
            answer.headers["Allow"] = error.allow
        return answer

    async def page(self, call: Call, item_type: str, rows: Page) -> Response:
        """A page of ``rows`` as the headers of ``call`` ask for it; the next is asked for by ``x-ms-continuation``."""
        headers = call.request.headers
        size = self._size(headers.get(_SIZE))
        found = await rows(_after(headers.get(_CONTINUATION)), size + 1)
        told = {_SIZE: str(size), _TYPE: item_type}
        if len(found) > size:
            found = found[:size]
            told[_CONTINUATION] = base64.urlsafe_b64encode(found[-1][0].encode()).decode()
        answer = json_answer([row for _, row in found])
        answer.headers.update(told)
        return answer

    def _size(self, text: str | None) -> int:
        """How many rows a page shall have; more than there may be is no error, and none (0, -1) means so many."""
        if not text or text in {"0", "-1"}:
            return self._most
        if not text.isascii() or not text.isdigit():
            raise HubError(ARGUMENT_INVALID, f"{_SIZE} is not a number of rows, give one from 1 to {self._most}.")
        return min(int(text[:9]), self._most)


def _after(continuation: str | None) -> str:
    """The id behind which a page begins."""
    if not continuation:
        return ""
    try:
        return check_id("x-ms-continuation", base64.urlsafe_b64decode(continuation).decode())
    except (binascii.Error, ValueError, HubError):
        raise HubError(ARGUMENT_INVALID, f"{_CONTINUATION} is not one that this service gave, begin anew.") from None
