"""A hub that takes files, over real TLS sockets and on a real disk, with a clock that tests move."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
from hub_rest import Answer, token
from yarl import URL

from muster.core.ambient import SystemAmbient
from muster.core.limits import Profile
from muster.dialect.blob_sas import CONTAINER, Account
from muster.heads.front import FrontProtocol
from muster.heads.http.app import build_app
from muster.heads.http.blobs import BlobOperations
from muster.heads.http.connection import HttpServer
from muster.heads.http.operations import Operation
from muster.heads.http.uploads import UploadOperations
from muster.heads.listener import TlsListener
from muster.heads.tls import server_context
from muster.identity.authenticator import Authenticator
from muster.identity.changes import Draft
from muster.identity.hub import make_hub
from muster.identity.model import IdentityKey
from muster.identity.policies import development_policies
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.identity.sas import make
from muster.issuing.authority import issue_server_certificate, make_authority
from muster.messages.blobs import Blobs
from muster.messages.upload_contract import FileNotification, UploadStorage, UploadStore, upload_unknown
from muster.messages.uploads import Uploads
from muster.sessions.table import SessionTable
from muster.stores.blobs.embedded import EmbeddedStorage
from muster.stores.blobs.folder import FolderFiles
from muster.testing.clock import VirtualAmbient
from tests.engines import open_engines

API = "api-version=2021-04-12"
KEY = bytes(range(64))
ACCOUNT = Account("muster", KEY)
QUOTA = 64 * 1024 * 1024


class Place(NamedTuple):
    """Where a file goes: what a device was answered."""

    correlation_id: str
    path: str
    sas: str
    blob_name: str


class Notices:
    """Keeps the notices of files; ``failure`` is raised in the place of the next."""

    def __init__(self) -> None:
        self.uploads: UploadStore
        self.kept: list[FileNotification] = []
        self.failure: Exception | None = None

    async def put(self, notice: FileNotification, correlation_id: str) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        if not await self.uploads.end("localhost", notice.device_id, correlation_id):
            raise upload_unknown()
        self.kept.append(notice)


class FileHub:
    """The running hub and its clients. Devices are registered on first use."""

    def __init__(self, directory: Path, ambient: VirtualAmbient, trust: ssl.SSLContext) -> None:
        self.directory, self.ambient, self.trust = directory, ambient, trust
        self.notices = Notices()
        self.registry: Registry
        self.refusals: Refusals
        self.blobs: Blobs
        self.session: aiohttp.ClientSession
        self.listener: TlsListener
        self.port = 0

    # --- devices and services

    async def key(self, device_id: str, module_id: str | None = None) -> bytes:
        if module_id is not None:
            await self.key(device_id)
        wanted = IdentityKey(device_id, module_id)
        with contextlib.suppress(Exception):
            await self.registry.create(Draft(key=wanted))
        identity = await self.registry.get(wanted)
        return base64.b64decode(identity.authentication.primary_key or "")

    async def device_token(self, device_id: str, module_id: str | None = None, seconds: int = 86_400) -> str:
        """A token of the identity's own key."""
        resource = f"localhost/devices/{device_id}" + ("" if module_id is None else f"/modules/{module_id}")
        return make(resource, int(self.ambient.now()) + seconds, await self.key(device_id, module_id))

    async def call(
        self, method: str, path: str, body: Any = None, *, data: Any = None, query: str = API, **headers: str
    ) -> Answer:
        """One request; ``path`` and ``query`` stand as they are, ``_`` in names of headers means ``-``."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            data = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json; charset=utf-8")
        url = URL(f"https://localhost:{self.port}{path}{'?' + query if query else ''}", encoded=True)
        async with self.session.request(
            method, url, data=data, headers=given, skip_auto_headers=("Content-Type",), ssl=self.trust
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def as_device(self, method: str, path: str, body: Any = None, device_id: str = "d") -> Answer:
        return await self.call(method, path, body, Authorization=await self.device_token(device_id))

    async def as_service(self, method: str, path: str, policy: str = "service", **options: Any) -> Answer:
        return await self.call(method, path, Authorization=token(policy), **options)

    # --- files

    async def begin(self, name: str = "f.bin", device_id: str = "d") -> Place:
        """Ask for a place."""
        path = f"/devices/{quote(device_id, safe='')}/files"
        answer = await self.as_device("POST", path, {"blobName": name}, device_id)
        assert answer.status == 200, answer.body
        told = answer.json
        assert set(told) == {"correlationId", "hostName", "containerName", "blobName", "sasToken"}
        assert (told["hostName"], told["containerName"]) == (f"localhost:{self.port}", CONTAINER)
        assert told["blobName"] == f"{device_id}/{name}"
        assert told["sasToken"].startswith("?sv=")
        path = f"/{CONTAINER}/{quote(told['blobName'])}"
        return Place(told["correlationId"], path, told["sasToken"][1:], told["blobName"])

    async def report(self, correlation_id: str, device_id: str = "d", **members: Any) -> Answer:
        body = {"correlationId": correlation_id, "isSuccess": True, "statusCode": 200, **members}
        return await self.as_device("POST", f"/devices/{device_id}/files/notifications", body, device_id)

    async def put(self, place: Place, data: Any, comp: str = "", **headers: str) -> Answer:
        """Put Blob, or with ``comp`` one of the others."""
        kind = {} if comp else {"x_ms_blob_type": "BlockBlob"}
        query = f"{comp}&{place.sas}" if comp else place.sas
        return await self.call("PUT", place.path, data=data, query=query, **{**kind, **headers})

    async def stage(self, place: Place, number: int, data: bytes, **headers: str) -> Answer:
        return await self.put(place, data, f"comp=block&blockid={quote(block_id(number), safe='')}", **headers)

    async def commit(self, place: Place, entries: Sequence[tuple[str, int]], **headers: str) -> Answer:
        return await self.put(place, block_list(entries), "comp=blocklist", **headers)

    async def get(self, place: Place, method: str = "GET", **headers: str) -> Answer:
        return await self.call(method, place.path, query=place.sas, **headers)

    # --- what became of it

    def files(self) -> int:
        """How many files lie in the folder, drafts included."""
        return sum(path.is_file() for path in (self.directory / "blobs").rglob("*"))

    async def settled(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    async def last_cause(self) -> str:
        refusal = await self.refusals.last()
        return "" if refusal is None else str(refusal.report["cause"])

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which nothing was sent."""
        return await asyncio.open_connection("localhost", self.port, ssl=self.trust)


def block_id(number: int) -> str:
    return base64.b64encode(f"{number:08}".encode()).decode()


def block_list(entries: Sequence[tuple[str, int]]) -> bytes:
    listed = "".join(f"<{source}>{block_id(number)}</{source}>" for source, number in entries)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<BlockList>{listed}</BlockList>'.encode()


def storage_error(answer: Answer) -> tuple[int, str]:
    """Status and name of a refusal; header and body must agree."""
    name = answer.headers["x-ms-error-code"]
    assert answer.headers["Content-Type"].startswith("application/xml")
    assert re.fullmatch(
        rb'<\?xml version="1.0" encoding="utf-8"\?><Error><Code>([A-Za-z0-9]+)</Code><Message>[^<]+\n'
        rb"RequestId:[0-9a-f-]{36}\nTime:[0-9T:.-]+Z</Message></Error>",
        answer.body,
    ), answer.body
    assert f"<Code>{name}</Code>".encode() in answer.body
    return answer.status, name


@contextlib.asynccontextmanager
async def file_hub(
    directory: Path,
    *,
    profile: Profile = Profile.OPEN,
    quota: int = QUOTA,
    storage: Callable[[FileHub], UploadStorage | None] | None = None,
    more: Sequence[Operation] = (),
    ambient: VirtualAmbient | None = None,
    told: bool = True,
) -> AsyncIterator[FileHub]:
    """``storage`` in the place of the embedded one; ``ambient`` of an earlier run to go on with;
    ``told``: services are told of files."""
    loop = asyncio.get_running_loop()
    system, ambient = SystemAmbient(loop), ambient or VirtualAmbient()
    authority = make_authority(system)
    issued = issue_server_certificate(authority, ["localhost"], system)
    for name, content in (("ca", authority.certificate), ("chain", issued.certificate), ("key", issued.key)):
        (directory / name).write_bytes(content)
    hub = FileHub(directory, ambient, ssl.create_default_context(cafile=str(directory / "ca")))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    hub.port = sock.getsockname()[1]

    facts = make_hub(["localhost"], development_policies(), profile)
    async with open_engines(directory) as engines, contextlib.AsyncExitStack() as undo:
        stores, bus = engines.storage.of(facts.name, None), engines.bus(facts.name)
        sessions = SessionTable(facts.name, stores.identities, bus, ambient)
        hub.registry = Registry(facts.name, stores.identities, sessions, bus, ambient)
        hub.refusals = Refusals(ambient)
        gate = Authenticator(facts, stores.identities, ambient, hub.refusals)
        hub.blobs = Blobs(stores.blobs, FolderFiles(directory / "blobs", ambient, durable=False), ambient, quota)
        await hub.blobs.start()
        undo.push_async_callback(hub.blobs.close)
        place = EmbeddedStorage(hub.blobs, ACCOUNT, f"localhost:{hub.port}") if storage is None else storage(hub)
        hub.notices.uploads = stores.uploads
        notices = hub.notices if told else None
        uploads = Uploads(facts.name, stores.uploads, place, notices, ambient, profile=profile)
        await uploads.start()
        undo.push_async_callback(uploads.close)
        blobs = BlobOperations(hub.blobs, ACCOUNT, gate, ambient).table()
        operations = [*blobs, *UploadOperations(uploads).table(), *more]
        app = build_app(registry=hub.registry, gate=gate, ambient=ambient, ready=lambda: True, more=operations)
        http = HttpServer(app, ambient.now)
        undo.push_async_callback(http.close)
        context = server_context(str(directory / "chain"), str(directory / "key"))
        make_front = partial(FrontProtocol, loop, http, http, http)
        listener = hub.listener = TlsListener(loop, lambda: context, make_front)
        listener.listen([sock])
        undo.callback(listener.abort_connections)
        undo.callback(listener.stop_accepting)
        async with aiohttp.ClientSession() as hub.session:
            yield hub


def md5(data: bytes) -> str:
    """As Content-MD5 has it."""
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def refused(answer: Answer) -> str:
    """The code of the storage error that ``answer`` is."""
    return storage_error(answer)[1]
