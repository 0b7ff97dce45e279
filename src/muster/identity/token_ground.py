"""By what a SAS token counts: remembered of what it has let in, so that this ends when the ground is lost."""

from __future__ import annotations

from typing import NamedTuple

from muster.identity.hub import Hub
from muster.identity.policies import LOCAL, SharedAccessPolicy, rights_text
from muster.identity.verdict import Right


class TokenGround(NamedTuple):
    """``policy`` is the one whose key signed, and ``key`` the hash of that key; empty and 0 where it was one of the
    identity's own, which is a ``module`` or a device."""

    policy: str = ""
    key: int = 0
    module: bool = False

    def lost(self, hub: Hub, right: Right) -> tuple[str, str]:
        """The cause for which the token does not count any more where it takes ``right``, and what is seen; both empty
        while it does. That its identity is as it was is not looked at."""
        off = switched_off(hub, self.policy, module=self.module)
        if off:
            return off, "what was let in before"
        if not self.policy:
            return "", ""
        policy = hub.policy(self.policy)
        if policy is None:
            return _WITHDRAWN, f"{self.policy} was deleted"
        if self.key not in map(hash, (policy.primary_key, policy.secondary_key)):
            return _WITHDRAWN, f"the key of {self.policy} was rotated"
        if right not in policy.rights:
            return _WITHDRAWN, f"{self.policy} grants {rights_text(policy.rights)} now"
        return "", ""


OWN = {module: TokenGround(module=module) for module in (False, True)}
"""An identity's own token, by whether it is a module's."""
_WITHDRAWN = "policy-withdrawn"


def of_policy(policy: SharedAccessPolicy, key: str) -> TokenGround:
    """A token that ``key``, one of the keys of ``policy``, has signed."""
    return TokenGround(policy.name, hash(key))


def switched_off(hub: Hub, policy: str, *, module: bool) -> str:
    """The cause for which ``hub`` takes no tokens of this kind, empty where it does; ``policy`` is empty for an
    identity's own."""
    switches = hub.switches
    if policy:
        return "local-auth-disabled" if switches.disable_local_auth and policy != LOCAL else ""
    if module:
        return "module-sas-disabled" if switches.disable_module_sas else ""
    return "device-sas-disabled" if switches.disable_device_sas else ""
