"""The embedded blob endpoint: the part of Azure Storage's Blob service that clients use to upload a file.

``/{container}/{device id}/{name}`` below the hub's own host. Who has a shared access signature for the file may write
and read it; who has a hub policy with ServiceConnect may read and delete any. Its names, headers and refusals are not
the REST data plane's: https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from muster.access.roles import DataAction
from muster.core.ambient import Ambient, iso, shown_id
from muster.core.errors import BAD_REQUEST, REQUEST_TIMEOUT, SERVER_ERROR, UNAVAILABLE, HubError
from muster.core.storage_errors import (
    BODY_TOO_LARGE,
    INVALID_HEADER,
    INVALID_QUERY,
    LENGTH_REQUIRED,
    MISSING_HEADER,
    SERVER_BUSY,
)
from muster.core.upload_limits import BLOB_BODY_BYTES
from muster.dialect import blob_headers, blob_sas
from muster.dialect.blob_sas import CONTAINER, Account, BlobSas
from muster.dialect.blob_xml import check_block_id, error_xml, read_block_list
from muster.heads.http.auth import ServiceGate, authorize
from muster.heads.http.messages import Request, Response, StreamResponse
from muster.heads.http.operations import Call, Operation
from muster.identity.verdict import Right
from muster.messages.blobs import Blobs, Body

_WRITE_BYTES = 131_072
"""A body is handed to the disk in pieces of about this size."""
_READ, _WRITE, _DELETE = "rwd"
_READING = (DataAction.UPLOAD_NOTIFICATIONS,)
_CHANGING = (DataAction.UPLOAD_NOTIFICATIONS, DataAction.DEVICES_WRITE)
"""What the caller of a bearer token must be allowed: who is told of files reads them, who may do everything deletes."""
_STORAGE_NAMES = {
    SERVER_ERROR: "InternalError",
    UNAVAILABLE: SERVER_BUSY.name,
    BAD_REQUEST: "InvalidInput",
    REQUEST_TIMEOUT: "OperationTimedOut",
}
"""What Azure Storage calls refusals of the hub as such."""


class BlobOperations:
    """The files of one hub. ``account`` signs what devices show; ``gate`` judges services."""

    def __init__(self, blobs: Blobs, account: Account, gate: ServiceGate, ambient: Ambient) -> None:
        self._blobs = blobs
        self._account = account
        self._gate = gate
        self._ambient = ambient

    def table(self) -> list[Operation]:
        """The rows for the operation table. Who may call is judged here: a signature in the query is no token."""
        path = f"/{CONTAINER}/{{blob...}}"
        handlers = (("PUT", self.put), ("GET", self.get), ("DELETE", self.delete))
        return [Operation(method, path, None, handler, refuse=self.refuse) for method, handler in handlers]

    async def put(self, call: Call) -> Response:
        """Put Blob, Put Block or Put Block List, as ``comp`` says; 201."""
        request, name = call.request, call.parameters["blob"]
        sas = self._signed(call, _WRITE)
        headers, query = request.headers, blob_sas.fields_of(request.raw_query)
        blob_headers.check_supported(headers)
        condition = blob_headers.write_condition(headers)
        match query.get("comp"):
            case None:
                _check_kind(headers.get("x-ms-blob-type"))
                properties = blob_headers.properties_of(headers, whole=True)
                blob = await self._blobs.put(name, _body(request), properties, condition)
            case "block":
                block_id = check_block_id(query.get("blockid", ""))
                md5 = await self._blobs.stage(name, block_id, _body(request), sas.expires_at)
                return _answer(call, 201, {"Content-MD5": md5, **blob_headers.NOT_ENCRYPTED})
            case "blocklist":
                properties = blob_headers.properties_of(headers, whole=False)
                blob = await self._blobs.commit(name, read_block_list(await request.body.read()), properties, condition)
            case _:
                raise HubError(INVALID_QUERY, "comp is neither block nor blocklist, leave it out to put a whole file.")
        return _answer(call, 201, blob_headers.written_headers(blob))

    async def get(self, call: Call) -> Response | StreamResponse:
        """Get Blob (200, or 206 for a range), or Get Blob Properties when the method is HEAD; 304 as asked for."""
        await self._allow(call, _READ)
        _check_whole(call)
        request, blob = call.request, await self._blobs.get(call.parameters["blob"])
        headers = blob_headers.read_headers(blob)
        if blob_headers.is_unmodified(request.headers, blob):
            return _answer(call, 304, {"ETag": headers["ETag"], "Last-Modified": headers["Last-Modified"]})
        asked = None if request.method == "HEAD" else blob_headers.asked_range(request.headers, blob.size)
        start, stop = asked or (0, blob.size)
        if asked is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
            md5 = headers.pop("Content-MD5", None)  # it is the whole's
            headers |= {} if md5 is None else {"x-ms-blob-content-md5": md5}
        headers |= {"Content-Length": str(stop - start), "x-ms-version": blob_headers.version_of(request.headers)}
        answer = StreamResponse(status=200 if asked is None else 206, headers=headers)
        if request.method == "HEAD":
            await answer.prepare(request)
            return answer
        async with aclosing(self._blobs.read(blob, start, stop)) as chunks:
            first = await anext(chunks, b"")  # from here on the blob cannot go
            await answer.prepare(request)
            await answer.write(first)
            async for chunk in chunks:
                await answer.write(chunk)
        return answer

    async def delete(self, call: Call) -> Response:
        """Delete Blob; 202."""
        await self._allow(call, _DELETE)
        _check_whole(call)
        await self._blobs.delete(call.parameters["blob"], blob_headers.write_condition(call.request.headers))
        return _answer(call, 202, {})

    def refuse(self, error: HubError, tracking_id: str) -> Response:
        """A refusal in Azure Storage's shape, its name in ``x-ms-error-code``."""
        code = _STORAGE_NAMES.get(error.row, error.row.name)
        body = error_xml(code, error.message, shown_id(tracking_id[:32]), iso(self._ambient.now()))
        headers = {"Content-Type": "application/xml", "x-ms-error-code": code, "x-ms-version": blob_sas.VERSION}
        if isinstance(error, blob_headers.InvalidRange):
            headers["Content-Range"] = f"bytes */{error.size}"
        return Response(body=body, status=error.row.status, headers=headers)

    # --- who may

    async def _allow(self, call: Call, permission: str) -> None:
        """Let a service with its token through, and who shows a signature for this file."""
        if "Authorization" in call.request.headers and "sig" not in call.request.query:
            actions = _READING if permission == _READ else _CHANGING
            judged = authorize(call, Right.SERVICE_CONNECT, self._gate, actions)
            if judged is not None:
                await judged
        else:
            self._signed(call, permission)

    def _signed(self, call: Call, permission: str) -> BlobSas:
        sas = blob_sas.read(call.request.raw_query)
        blob_sas.check(sas, self._account, CONTAINER, call.parameters["blob"], permission, now=self._ambient.now())
        return sas


def _check_whole(call: Call) -> None:
    """Raise ``HubError`` for a query that asks for something else than the file as it is."""
    for name in ("comp", "snapshot", "versionid"):
        if call.query(name) is not None:
            raise HubError(INVALID_QUERY, f"{name} is not understood by the hub's own storage here, leave it out.")


def _check_kind(kind: str | None) -> None:
    if kind is None:
        raise HubError(MISSING_HEADER, "x-ms-blob-type is missing, send BlockBlob.")
    if kind.lower() != "blockblob":
        raise HubError(INVALID_HEADER, "x-ms-blob-type is not BlockBlob, only block blobs are kept here.")


def _body(request: Request) -> Body:
    length = request.headers.get("Content-Length")
    if length is None:
        raise HubError(LENGTH_REQUIRED)
    if int(length) > BLOB_BODY_BYTES.open:
        raise HubError(BODY_TOO_LARGE, f"The body has more than {BLOB_BODY_BYTES.open} bytes, put the file in blocks.")
    return Body(int(length), _pieces(request), blob_headers.md5_of(request.headers))


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes, never more of it than a piece: until one is on the disk little more is read."""
    piece = bytearray()
    async for data in request.body.chunks():
        piece += data
        if len(piece) >= _WRITE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _answer(call: Call, status: int, headers: Mapping[str, str]) -> Response:
    version = blob_headers.version_of(call.request.headers)
    return Response(status=status, headers={**headers, "x-ms-version": version})
