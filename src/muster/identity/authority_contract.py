"""Certificate authorities that a hub trusts for its devices, and what it asks of their store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from muster.core.audit import Draft
from muster.core.certificate_limits import REVOCATION_REFRESH


@dataclass(frozen=True, slots=True)
class RevocationRules:
    """Where an authority says which certificates it has revoked. Texts are empty where it has no such place.

    ``fail_closed``: a device is refused for as long as nothing current is known of its certificates; otherwise it
    is let in until they are known to be revoked. ``refresh``: seconds from one look at these places to the next.
    """

    fail_closed: bool = False
    list_url: str = ""
    responder_url: str = ""
    refresh: int = REVOCATION_REFRESH.open


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A registered authority. Times are seconds since 1970; ``certificate`` is DER.

    ``version`` grows with each change and is what the ETag is made from. ``code`` is what has to be signed to prove
    that one has its key, empty before it was asked for. Only a ``verified`` one is trusted.
    """

    name: str
    certificate: bytes = field(repr=False)
    verified: bool
    created: float
    updated: float
    version: int
    code: str = field(default="", repr=False)
    rules: RevocationRules = RevocationRules()


class KeptList(NamedTuple):
    """A revocation list (DER) kept for ``authority``; it may be that of an authority below, named by ``issuer``."""

    authority: str
    issuer: bytes
    der: bytes


class AuthorityStanding(NamedTuple):
    """How things stand when a change is made: the authority, ``None`` when absent, and how many others there
    are."""

    authority: Authority | None
    others: int


AuthorityChange = Callable[[AuthorityStanding], Authority | None]
"""What the authority shall be, ``None`` for deleted. Pure; raises ``HubError`` to refuse; see ``contract.Change``."""


AuthorityNote = Callable[[Authority | None, Authority | None], Draft]
"""The audit record of an authority that was the first and is the second (``None``: not there). Pure."""


class AuthorityStore(Protocol):
    """Keeps authorities and their revocation lists, by hub. There are few; all are read at once.

    Promises: what an edit or ``put_list`` has written is durable when it returns and seen by every later read. An
    authority's lists are deleted with it. Does not promise that a certificate is one.
    """

    async def authorities(self, hub: str) -> Sequence[Authority]:
        """All, in the order of their names."""
        ...

    async def edit_authority(
        self, hub: str, name: str, change: AuthorityChange, note: AuthorityNote | None = None
    ) -> Authority | None:
        """Apply ``change``, and put on record what ``note`` makes of it; what the authority is now. Raises what
        ``change`` raises, having done nothing then."""
        ...

    async def put_list(self, hub: str, kept: KeptList, draft: Draft | None = None) -> bool:
        """Keep the list in place of an earlier one of the same issuer, and put ``draft`` on record with it; ``False``,
        and neither, when there is no such authority."""
        ...

    async def lists(self, hub: str) -> Sequence[KeptList]:
        """All lists."""
        ...
