"""The network rules of one hub or provisioning service in force: kept, changed while it runs, asked by all heads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from muster.core.ambient import Ambient, tracking_id
from muster.core.audit import Note
from muster.core.errors import PRECONDITION_FAILED, UNAUTHORIZED, ErrorRow, HubError
from muster.core.settings_store import HubSettingsStore
from muster.identity.changes import Match
from muster.identity.examination import Examination
from muster.identity.mistakes import shown
from muster.identity.network import (
    Action,
    FilterRule,
    Gatekeeper,
    NetworkRules,
    RuleSet,
    Ruling,
    Target,
    host_of,
)
from muster.identity.refusals import Refusals
from muster.identity.verdict import Check, Outcome, Verdict

HUB_SETTING, PROVISIONING_SETTING = "network", "provisioning-network"
CHECK = "network"


class NetworkAccess:
    """Who may come. ``version`` counts the changes; ``watches`` is false where nobody could be refused.

    A refusal does not say on the wire that it was the address, as in the cloud (docs iot-hub-ip-filtering: 401); it is
    kept in ``refusals``.
    """

    def __init__(self, store: HubSettingsStore, setting: str, refusals: Refusals, ambient: Ambient) -> None:
        """``setting`` is the name under which ``store`` keeps them."""
        self._store, self._setting = store, setting
        self._refusals, self._ambient = refusals, ambient
        self._changing = asyncio.Lock()
        self._when_changed: list[Callable[[], None]] = []
        self._take(NetworkRules(), 0)

    def _take(self, rules: NetworkRules, version: int) -> None:
        keeper = Gatekeeper(rules)
        self.rules, self.version, self.watches, self._keeper = rules, version, keeper.watches, keeper

    async def load(self) -> None:
        """Take those that were kept, and from now on those that other nodes keep. Raises ``HubError`` 500001."""
        await self._load()
        self._store.follow(self._setting, self._reload)

    async def _load(self) -> None:
        text = await self._store.get_setting(self._setting)
        if text is not None:
            kept = json.loads(text)
            self._take(_from_kept(kept), kept["version"])

    async def _reload(self) -> None:
        async with self._changing:
            await self._load()
            self._tell()

    async def change(self, rules: NetworkRules, match: Match | None = None, note: Note | None = None) -> None:
        """Put ``rules`` in place of those before: when this returns they are on disk and count, and the listeners of
        ``when_changed`` end what would be refused now. They must have gone through ``dialect.network_bodies``.

        Raises ``HubError``: 412001 when ``match`` asks for another version, 500001.
        """
        async with self._changing:
            if match is not None and match.version not in (None, self.version):
                raise HubError(PRECONDITION_FAILED, "The network rules were changed meanwhile, read them again.")
            version = self.version + 1
            kept = _to_kept(rules, version)
            record = None if note is None else note(_to_kept(self.rules, self.version), kept)
            await self._store.put_settings({self._setting: json.dumps(kept).encode()}, record)
            self._take(rules, version)
            self._tell()

    def _tell(self) -> None:
        for listener in self._when_changed:
            listener()

    def when_changed(self, listener: Callable[[], None]) -> None:
        """From now on call ``listener`` after every change."""
        self._when_changed.append(listener)

    def ruling(self, peer: str, target: Target = Target.ALL, *, events: bool = False) -> Ruling:
        """What is said of ``peer`` (``address:port``); see ``Gatekeeper.ruling``."""
        return self._keeper.ruling(host_of(peer), target, events=events)

    def refusal(
        self,
        transport: str,
        peer: str,
        *,
        principal: str = "",
        error: ErrorRow = UNAUTHORIZED,
        target: Target = Target.ALL,
        events: bool = False,
    ) -> Verdict | None:
        """The verdict on who comes from an address that is refused, kept; ``None`` where it is not.

        ``principal`` is who claims to be there, ``error`` what is answered; the rest as in ``DeviceAttempt`` and
        ``Gatekeeper.ruling``.
        """
        if not self.watches:
            return None
        exam = Examination()
        self.check(exam, peer, error=error, target=target, events=events)
        if exam.error is None:
            return None
        verdict = Verdict(
            tracking_id=tracking_id(self._ambient), at=self._ambient.now(), transport=transport, peer=peer,
            principal=shown(principal) if principal else "", checks=tuple(exam.checks), cause=exam.cause, error=error,
        )  # fmt: skip
        self._refusals.add(verdict)
        return verdict

    def check(
        self,
        exam: Examination,
        peer: str,
        *,
        error: ErrorRow = UNAUTHORIZED,
        target: Target = Target.ALL,
        events: bool = False,
    ) -> None:
        """Add the check ``network`` to ``exam``, if there is anything to check."""
        if not self.watches:
            return
        ruling = self.ruling(peer, target, events=events)
        if ruling.allowed:
            exam.checks.append(Check(CHECK, Outcome.PASSED, "an address that may come", ruling.by))
        else:
            seen = f"{shown(host_of(peer))}: {ruling.by}"
            exam.failed(CHECK, ruling.cause, error, expected="an address that may come", seen=seen)

    def require(
        self, transport: str, peer: str, *, principal: str = "", target: Target = Target.ALL, events: bool = False
    ) -> None:
        """Raise ``HubError`` 401002 with the tracking id of the refusal, if it is one; see ``refusal``."""
        refused = self.refusal(transport, peer, principal=principal, target=target, events=events)
        if refused is not None:
            raise HubError(UNAUTHORIZED, "Unauthorized", tracking_id=refused.tracking_id)


def _to_kept(rules: NetworkRules, version: int) -> dict[str, Any]:
    found = rules.rule_set
    return {
        "version": version,
        "public": rules.public,
        "filters": [[one.name, one.action, one.mask, one.target] for one in rules.filters],
        "ruleSet": None
        if found is None
        else {
            "rules": [[one.name, one.action, one.mask, one.target] for one in found.rules],
            "default": found.default,
            "events": found.events,
        },
        "private": list(rules.private),
    }


def _from_kept(kept: dict[str, Any]) -> NetworkRules:
    def rules(rows: list[list[str]]) -> tuple[FilterRule, ...]:
        return tuple(FilterRule(name, Action(action), mask, Target(target)) for name, action, mask, target in rows)

    found = kept["ruleSet"]
    rule_set = found and RuleSet(rules(found["rules"]), Action(found["default"]), found["events"])
    return NetworkRules(kept["public"], rules(kept["filters"]), rule_set, tuple(kept["private"]))
