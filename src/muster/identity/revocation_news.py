"""News of what was revoked, fetched: lists from URLs, and answers of responders about devices that are connected.

One timer of the ambient and a bounded number of requests a round; nothing is asked where no authority wants it.
What fails is no news: the authority's rules say what that means, and it is tried again next time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from muster.core.ambient import Ambient, Timer
from muster.core.certificate_limits import REVOCATION_LIST_BYTES, REVOCATION_REFRESH, REVOCATION_WAIT
from muster.core.errors import HubError
from muster.identity.authorities import Authorities
from muster.identity.authority_contract import Authority
from muster.identity.certificates import Certificate, CertificateError
from muster.identity.revocation import read_answer, request_for
from muster.identity.trust import ChainProof, Trust

log = logging.getLogger("muster.revocation")

_ANSWER_BYTES = 65_536
_AT_ONCE = 8
_REQUEST_TYPE = "application/ocsp-request"
_PAUSE = 10.0
"""Seconds until a responder that gave no answer is asked about the same certificate again."""


class Fetch(Protocol):
    """Gets what is behind a URL, off the loop."""

    async def __call__(self, url: str, body: bytes | None, media_type: str, most: int, seconds: float) -> bytes:
        """POST ``body``, or GET when it is ``None``; at most ``most`` bytes within ``seconds``. Raises ``OSError``."""
        ...


class RevocationNews:
    """Keeps ``trust`` up to date from ``start`` to ``stop``. ``proofs`` are those of the live sessions."""

    def __init__(
        self,
        trust: Trust,
        authorities: Authorities,
        fetch: Fetch,
        ambient: Ambient,
        proofs: Callable[[], Iterable[ChainProof]],
    ) -> None:
        self._trust = trust
        self._authorities = authorities
        self._fetch = fetch
        self._ambient = ambient
        self._proofs = proofs
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self._asking: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._gate = asyncio.Semaphore(_AT_ONCE)

    def start(self) -> None:
        """Get the news at once, and then every ``REVOCATION_REFRESH`` seconds."""
        self._due()

    async def stop(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._asking.values(), *filter(None, (self._task,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _due(self) -> None:
        self._timer = self._ambient.at(self._ambient.now() + REVOCATION_REFRESH.open, self._due)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self.refresh())

    async def refresh(self) -> None:
        """One round: every list that has a URL, every certificate in use that a responder knows of."""
        wanted = self._authorities.all()
        await asyncio.gather(*(self._refresh_list(one) for one in wanted if one.rules.list_url))
        if any(one.rules.responder_url for one in wanted):
            links = {
                (issuer.sha256, serial): (proof, (serial, issuer))
                for proof in self._proofs()
                for serial, issuer in proof.links()
            }
            for proof, link in links.values():
                await self.ask(proof, link)
        if any(one.rules.fail_closed for one in wanted):
            self._trust.look_again()

    async def _refresh_list(self, authority: Authority) -> None:
        url = authority.rules.list_url
        try:
            content = await self._fetch(url, None, "", REVOCATION_LIST_BYTES.open, REVOCATION_WAIT.open)
            if any(one.der == content for one in self._trust.lists_of(authority.name)):
                return
            await self._authorities.put_list(authority.name, content)
        except (OSError, HubError) as error:
            log.warning("no revocation list of %s from its URL: %s", authority.name, error)

    async def ask(self, proof: ChainProof, link: tuple[int, Certificate]) -> None:
        """Ask the responder of the authority of ``proof`` about ``link``; who asks the same meanwhile waits along."""
        serial, issuer = link
        key = issuer.sha256, serial
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._ask(proof, link))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        await asyncio.shield(task)

    async def _ask(self, proof: ChainProof, link: tuple[int, Certificate]) -> None:
        authority = self._trust.rules_of(proof)
        if authority is None or not authority.rules.responder_url:
            return
        serial, issuer = link
        try:
            async with asyncio.timeout(REVOCATION_WAIT.open), self._gate:
                request = request_for(issuer, serial)
                url = authority.rules.responder_url
                content = await self._fetch(url, request, _REQUEST_TYPE, _ANSWER_BYTES, REVOCATION_WAIT.open)
                longest = 2.0 * REVOCATION_REFRESH.open
                answer = read_answer(content, issuer, serial, self._ambient.now(), longest)
        except (OSError, CertificateError) as error:  # a TimeoutError is an OSError
            log.warning("no answer of the responder of %s: %s", authority.name, error or type(error).__name__)
            self._trust.answered(link, self._ambient.now() + _PAUSE)
        else:
            self._trust.answered(link, answer)
