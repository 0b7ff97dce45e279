"""``/devices/{id}/files``: a device asks where to send a file, and says how that ended (device.md 5.4)."""

from __future__ import annotations

from muster.core.throttles import UPLOADS
from muster.dialect.upload_bodies import grant_body, read_report
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.verdict import Right
from muster.messages.uploads import Uploads


class UploadOperations:
    """File upload of one hub's devices. Modules have none, as in the cloud."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        right, path = Right.DEVICE_CONNECT, "/devices/{device_id}/files"
        return [
            Operation("POST", path, right, self.begin, throttle=UPLOADS),
            Operation("POST", f"{path}/notifications", right, self.report),
            Operation("POST", f"{path}/notifications/{{correlation_id}}", right, self.report),
        ]

    async def begin(self, call: Call) -> Response:
        """``{"blobName": ...}`` in; where to send the file out. Raises as ``Uploads.begin``."""
        body = await call.json_object()
        slot, grant = await self._uploads.begin(call.identity.device_id, body.needed_text("blobName"))
        return json_answer(grant_body(slot, grant))

    async def report(self, call: Call) -> Response:
        """How the upload ended; 204. Raises as ``Uploads.report`` and ``read_report``."""
        report = read_report(await call.json_object(), call.parameters.get("correlation_id"))
        await self._uploads.report(call.identity.device_id, report.correlation_id, success=report.success)
        return Response(status=204)
