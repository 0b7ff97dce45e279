"""A device on HTTPS: every request says who it is; see ``transports.DeviceClient``."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
from hub_rest import API, Answer
from transports import Ability, Got, Login, Place, RefusedError, Transport
from yarl import URL

BATCH = "application/vnd.microsoft.iothub.json"
PREFIX = "iothub-app-"


class HttpsDevice:
    """Requests over connections of its own."""

    def __init__(self, place: Place, login: Login) -> None:
        self._place, self._login = place, login
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=login.context))

    async def _call(self, method: str, end: str, data: Any = None, more: str = "", **headers: str) -> Answer:
        url = f"https://{self._place.host}:{self._place.https}/{self._login.path(end)}?{API}{more}"
        if self._login.token is not None:
            headers["Authorization"] = self._login.token
        if self._login.host != self._place.host:
            headers["Host"] = self._login.host
        async with self._session.request(
            method, URL(url, encoded=True), data=data, headers=headers, skip_auto_headers=("Content-Type",)
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if answer.status >= 300:
            raise RefusedError(f"{answer.status} {answer.error}")
        return answer

    async def send(self, body: bytes, message_id: str | None = None, **properties: str) -> None:
        headers = {f"{PREFIX}{name}": value for name, value in properties.items()}
        if message_id is not None:
            headers["iothub-messageid"] = message_id
        await self._call("POST", "messages/events", body, **headers)

    async def send_many(self, bodies: Sequence[bytes]) -> None:
        batch = [{"body": base64.b64encode(body).decode()} for body in bodies]
        await self._call("POST", "messages/events", json.dumps(batch).encode(), **{"Content-Type": BATCH})

    async def take_commands(self) -> None:
        """Nothing: a device asks for each."""

    async def command(self) -> Got:
        answer = await self._call("GET", "messages/deviceBound")
        assert answer.status == 200, "there is none"
        given = {name[len(PREFIX) :]: value for name, value in answer.headers.items() if name.startswith(PREFIX)}
        return Got(answer.body, answer.headers.get("iothub-messageid", ""), given, answer.headers["ETag"].strip('"'))

    async def complete(self, got: Got) -> None:
        await self._call("DELETE", f"messages/deviceBound/{got.handle}")

    async def abandon(self, got: Got) -> None:
        await self._call("POST", f"messages/deviceBound/{got.handle}/abandon")

    async def reject(self, got: Got) -> None:
        await self._call("DELETE", f"messages/deviceBound/{got.handle}", more="&reject")

    async def renew(self, token: str) -> None:
        self._login.token = token

    async def cut(self) -> None:
        """There is no session that could be cut: what the device had in hand stays locked."""
        await self._session.close()

    close = cut


async def _connect(place: Place, login: Login) -> HttpsDevice:
    return HttpsDevice(place, login)


HTTPS = Transport("https", "https", frozenset({Ability.SESSION, Ability.TWIN, Ability.METHODS}), _connect)
