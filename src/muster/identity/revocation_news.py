"""News of what was revoked, fetched: lists from URLs, and answers of responders about devices that are connected.

Each authority has rounds of its own, as often as its rules say; nothing is asked where none wants it. What fails is no
news: the authority's rules say what that means, and it is tried again next time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping

from muster.core.ambient import Ambient, Timer
from muster.core.certificate_limits import (
    RESPONDER_QUESTIONS,
    REVOCATION_LIST_BYTES,
    REVOCATION_LIST_RATE,
    REVOCATION_WAIT,
)
from muster.core.errors import HubError
from muster.core.fetching import Fetch, Request
from muster.identity.authorities import Authorities
from muster.identity.authority_contract import Authority, RevocationRules
from muster.identity.responders import Link, Responders
from muster.identity.trust import ChainProof, Trust

log = logging.getLogger("muster.revocation")

_OVERDUE_SECONDS = 60.0
"""So often sessions are looked at for news that has run out, where an authority fails closed."""
_AT_ONCE = 4
"""Questions of a round under way; who connects needs some of the responder too."""
_SLICE = 500
"""Sessions looked through before others get their turn."""

Proofs = Callable[[], Iterable[ChainProof]]
_Essence = tuple[str, float, bytes, RevocationRules]


class _Rounds:
    """Does ``work`` again and again: it says after how many seconds next."""

    def __init__(self, ambient: Ambient, work: Callable[[], Awaitable[float]]) -> None:
        self._ambient = ambient
        self._work = work
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def begin(self) -> asyncio.Task[None]:
        """Begin a round, unless one is under way; its task."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._round())
        return self._task

    def _due(self) -> None:
        self.begin()

    async def _round(self) -> None:
        pause = _OVERDUE_SECONDS
        try:
            pause = await self._work()
        finally:
            if not self._stopped:
                self._timer = self._ambient.at(self._ambient.now() + pause, self._due)

    def stop(self) -> asyncio.Task[None] | None:
        """No more rounds; the last one, which may be under way: a list that is being taken is taken."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        return self._task


class _Place:
    """Somewhere that an authority says what it has revoked. ``trouble``: why there are no news, told once."""

    def __init__(self, authority: Authority, what: str) -> None:
        self.authority = authority
        self.what = what
        self.trouble = ""

    def heard(self, trouble: str) -> None:
        """News have come, or not: because of ``trouble``."""
        if trouble and not self.trouble:
            log.warning("no news from the %s of authority %s: %s", self.what, self.authority.name, trouble)
        elif self.trouble and not trouble:
            log.warning("news from the %s of authority %s again", self.what, self.authority.name)
        self.trouble = trouble


class _ListPlace(_Place):
    """A revocation list behind a URL, asked for only if it is another one."""

    def __init__(self, authority: Authority, authorities: Authorities, fetch: Fetch) -> None:
        super().__init__(authority, "revocation list")
        self._authorities = authorities
        self._fetch = fetch
        self._request = Request(authority.rules.list_url)
        self._taken = b""

    async def look(self) -> float:
        """One round; seconds until the next."""
        pause, trouble = float(self.authority.rules.refresh), ""
        try:
            found = await self._fetch(self._request, REVOCATION_LIST_BYTES.open, REVOCATION_WAIT.open)
            if found.content is not None:
                if not found.conditional:
                    pause = max(pause, len(found.content) / REVOCATION_LIST_RATE.open)
                await self._take(found.content)
                self._request = self._request._replace(etag=found.etag, modified=found.modified)
        except (OSError, HubError) as error:
            trouble = str(error) or type(error).__name__
        self.heard(trouble)
        return pause

    async def _take(self, content: bytes) -> None:
        digest = hashlib.sha256(content).digest()
        if digest != self._taken:
            await self._authorities.put_list(self.authority.name, content)
            self._taken = digest


class _ResponderPlace(_Place):
    """A responder that is asked about the devices that are connected, one after the other, so many a second."""

    def __init__(self, authority: Authority, responders: Responders, proofs: Proofs, ambient: Ambient) -> None:
        super().__init__(authority, "responder")
        self._responders = responders
        self._proofs = proofs
        self._ambient = ambient
        self._anchor = hashlib.sha256(authority.certificate).hexdigest().upper()
        self._left: deque[tuple[ChainProof, Link]] = deque()
        self._began = 0.0

    async def look(self) -> float:
        """The share of a second; seconds until the next."""
        if not self._left:
            self._began = self._ambient.now()
            self._left.extend(await self._connected())
        share = deque(self._left.popleft() for _ in range(min(len(self._left), RESPONDER_QUESTIONS.open)))
        troubles: list[str] = []
        await asyncio.gather(*(self._ask(share, troubles) for _ in range(min(len(share), _AT_ONCE))))
        if troubles:
            self.heard("" if "" in troubles else troubles[0])
        if self._left:
            return 1.0
        return max(self._began + self.authority.rules.refresh - self._ambient.now(), 1.0)

    async def _ask(self, share: deque[tuple[ChainProof, Link]], troubles: list[str]) -> None:
        while share:
            troubles.append(await self._responders.ask(*share.popleft()))

    async def _connected(self) -> Iterable[tuple[ChainProof, Link]]:
        """What is to be asked: each certificate below the authority that a live session hangs on, once."""
        links: dict[tuple[str, int], tuple[ChainProof, Link]] = {}
        for number, proof in enumerate(self._proofs(), 1):
            if proof.anchor == self._anchor:
                links |= {(issuer.sha256, serial): (proof, (serial, issuer)) for serial, issuer in proof.links()}
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        return links.values()


class RevocationNews:
    """Keeps ``trust`` up to date from ``start`` to ``stop``. ``proofs`` are those of the live sessions."""

    def __init__(
        self,
        trust: Trust,
        authorities: Authorities,
        fetch: Fetch,
        ambient: Ambient,
        proofs: Proofs,
    ) -> None:
        self._trust = trust
        self._authorities = authorities
        self._fetch = fetch
        self._ambient = ambient
        self._proofs = proofs
        self._responders = Responders(trust, fetch, ambient)
        self.ask = self._responders.ask
        self._watched: dict[_Essence, list[tuple[_Place, _Rounds]]] = {}
        self._overdue = _Rounds(ambient, self._look_for_overdue)
        self._started = False
        self._stopping: set[asyncio.Task[None]] = set()
        trust.when_changed(self._changed)

    def start(self) -> None:
        """Get the news at once, and then as often as each authority wants. Other rules count once they are made."""
        self._started = True
        self._changed()
        self._overdue.begin()

    async def stop(self) -> None:
        """Ask no more."""
        self._started = False
        for essence in list(self._watched):
            self._forget(essence)
        tasks = {*self._stopping, *filter(None, (self._overdue.stop(),))}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._responders.stop()

    async def refresh(self) -> None:
        """One round of all, now."""
        await asyncio.gather(*(rounds.begin() for places in self._watched.values() for _, rounds in places))

    def troubles(self) -> Mapping[str, str]:
        """From which places no news come at this moment, in words, and why."""
        return {
            f"{place.what} of authority {place.authority.name}": place.trouble
            for places in self._watched.values()
            for place, _ in places
            if place.trouble
        }

    def _changed(self) -> None:
        """Authorities may have come, gone or got other rules."""
        if not self._started:
            return
        wanted = {
            (one.name, one.created, one.certificate, one.rules): one
            for one in self._authorities.all()
            if one.rules.list_url or one.rules.responder_url
        }
        for essence in self._watched.keys() - wanted.keys():
            self._forget(essence)
        for essence in wanted.keys() - self._watched.keys():
            self._watched[essence] = list(self._places(wanted[essence]))
            for _, rounds in self._watched[essence]:
                rounds.begin()

    def _places(self, authority: Authority) -> Iterable[tuple[_Place, _Rounds]]:
        if authority.rules.list_url:
            lists = _ListPlace(authority, self._authorities, self._fetch)
            yield lists, _Rounds(self._ambient, lists.look)
        if authority.rules.responder_url:
            responder = _ResponderPlace(authority, self._responders, self._proofs, self._ambient)
            yield responder, _Rounds(self._ambient, responder.look)

    def _forget(self, essence: _Essence) -> None:
        for _, rounds in self._watched.pop(essence):
            task = rounds.stop()
            if task is not None:
                self._stopping.add(task)
                task.add_done_callback(self._stopping.discard)

    async def _look_for_overdue(self) -> float:
        if any(one.rules.fail_closed for one in self._authorities.all()):
            self._trust.look_again()
        return _OVERDUE_SECONDS
