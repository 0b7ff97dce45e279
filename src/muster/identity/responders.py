"""Responders (OCSP) asked about one certificate: at once when a device connects, and again while it is connected."""

from __future__ import annotations

import asyncio
import logging

from muster.core.ambient import Ambient
from muster.core.certificate_limits import RESPONDER_ANSWER_COUNTS, REVOCATION_WAIT
from muster.core.fetching import Fetch, Request
from muster.identity.certificates import Certificate, CertificateError
from muster.identity.revocation import read_answer, request_for
from muster.identity.trust import ChainProof, Trust

log = logging.getLogger("muster.revocation")

_ANSWER_BYTES = 65_536
_AT_ONCE = 8
_PAUSE = 10.0
"""Seconds until a responder that gave no answer is asked about the same certificate again by who connects."""

Link = tuple[int, Certificate]
"""A certificate as its serial and its issuer."""


class Responders:
    """Asks, and tells ``trust``. A responder that hangs holds up nobody who waits for another one."""

    def __init__(self, trust: Trust, fetch: Fetch, ambient: Ambient) -> None:
        self._trust = trust
        self._fetch = fetch
        self._ambient = ambient
        self._asking: dict[tuple[str, str, int], asyncio.Task[str]] = {}
        self._gates: dict[str, asyncio.Semaphore] = {}

    async def stop(self) -> None:
        """Give up the questions under way."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, proof: ChainProof, link: Link) -> str:
        """Ask the responder of the authority of ``proof`` about ``link``; who asks the same meanwhile waits along.

        Why there was no answer, in words; empty when there was one.
        """
        serial, issuer = link
        key = proof.anchor, issuer.sha256, serial
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._ask(proof, link))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, proof: ChainProof, link: Link) -> str:
        authority = self._trust.rules_of(proof)
        if authority is None or not authority.rules.responder_url:
            return ""
        url, (serial, issuer) = authority.rules.responder_url, link
        gate = self._gates.setdefault(url, asyncio.Semaphore(_AT_ONCE))
        try:
            async with asyncio.timeout(REVOCATION_WAIT.open), gate:
                request = Request(url, request_for(issuer, serial), "application/ocsp-request")
                content = (await self._fetch(request, _ANSWER_BYTES, REVOCATION_WAIT.open)).content
                now = self._ambient.now()
                answer = read_answer(content or b"", issuer, serial, now, RESPONDER_ANSWER_COUNTS.open)
        except (OSError, CertificateError) as error:  # a TimeoutError is an OSError
            told = str(error) or type(error).__name__
            log.info("no answer of the responder of %s: %s", authority.name, told)
            self._trust.answered(link, self._ambient.now() + _PAUSE)
            return told
        self._trust.answered(link, answer)
        return ""
