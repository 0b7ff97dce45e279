"""Why an address was refused, by name; see ``causes``."""

from __future__ import annotations

from muster.identity.cause import Cause

NETWORK = (
    Cause(
        "network-rule",
        "An IP filter rule rejects the client's address.",
        "See the rules, and which one decides: muster hub network check ADDRESS (muster provisioning network check).",
    ),
    Cause(
        "network-default",
        "No IP filter rule allows the client's address, and all others are rejected.",
        "Allow it: muster hub network add NAME ADDRESS (muster provisioning network add).",
    ),
    Cause(
        "network-public-off",
        "Public network access is disabled, and the client's address is in no private network.",
        "Name its network as a private one: muster hub network set --private-network CIDR; or enable public access: "
        "muster hub network set --public-access enabled.",
    ),
)
