"""Write docs/errors.md, limits.md and roles.md from the tables of the source, so that they cannot drift apart.

usage: tables.py     (`make docs`; tests/unit/test_house_rules.py compares)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from muster.access.custom_roles import full_name
from muster.access.roles import (
    ALL_ROLES,
    ALLOWED,
    Action,
    DataAction,
    ManagementAction,
    ProvisioningAction,
    StreamAction,
)
from muster.core import (
    access_errors,
    errors,
    limits,
    management_errors,
    provisioning_errors,
    storage_errors,
    throttles,
)
from muster.identity import causes
from muster.identity.access_causes import ACCESS
from muster.identity.cause import Cause
from muster.identity.certificate_causes import CERTIFICATE, HANDSHAKE
from muster.identity.network_causes import NETWORK
from muster.identity.provisioning_causes import PROVISIONING

DOCS = Path(__file__).resolve().parent.parent / "docs"

ERRORS_INTRODUCTION = """# Errors

Every refusal of the hub is one row of this table (`src/muster/core/errors.py`), spelled as each protocol spells it.
The HTTP status is the first three digits of the code. *MQTT* is the CONNACK return code when the refusal meets a
CONNECT; later on MQTT can only close the connection. `muster why TRACKING_ID` says which check failed, and on what.
"""

CAUSES_INTRODUCTION = """## Why a credential was refused

The wire says no more than the cloud service does. The verdict that `muster why` prints names one of these mistakes
(`src/muster/identity/causes.py`).
"""

BREACHES_INTRODUCTION = """## Why a connection was ended

Rules of the protocols that a client can break before it logs in or later, kept and explained in the same way.
"""

ACCESS_INTRODUCTION = """## Why a bearer token was refused

What the verdict on a service's token of an OpenID Connect issuer names (`src/muster/identity/access_causes.py`); see
[access.md](access.md).
"""

NETWORK_INTRODUCTION = """## Why an address was refused

What the check `network` names (`src/muster/identity/network_causes.py`); see [network.md](network.md).
"""

PROVISIONING_INTRODUCTION = """## Why a device was not provisioned

What a registration's verdict names besides the above (`src/muster/identity/provisioning_causes.py`); see
[provisioning.md](provisioning.md).
"""

STORAGE_INTRODUCTION = """## What the embedded blob endpoint refuses

Files are sent as to Azure Storage, and refused with its names (`src/muster/core/storage_errors.py`).
"""

LIMITS_INTRODUCTION = """# Limits

Every limit of the hub (`src/muster/core/limits.py`) with its value in the `azure` profile, which copies the cloud
service, and in the `open` profile, the default of `muster serve`. *Source* is where the value comes from.
"""

THROTTLES_INTRODUCTION = """## Throttles

Rates that are enforced with `--profile azure` or `--throttle on`, by `--tier` and `--units`
(`src/muster/core/throttles.py`); without, everything passes and is only counted. `muster limits --live` shows both.
Above its rate an operation passes as long as the burst lasts, then it waits where that is said, then it is refused.
"""

QUOTAS_INTRODUCTION = """## Messages a day

What *charged* says above counts for the quota, once for each block begun. With nothing left it is refused until
midnight UTC, and so are new connections of devices.
"""


ROLES_INTRODUCTION = """# Built-in roles

What each role allows (`src/muster/access/roles.py`). Names and actions are Azure's; a role by command or file may have
any of those that are not management's: [access.md](access.md). `muster role list --actions` prints the same, and yours.
"""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, a line a row; what would be read as the table's or as HTML's is escaped."""
    escapes = str.maketrans({"|": "\\|", "<": "\\<"})
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.translate(escapes) for cell in line)} |" for line in lines) + "\n"


def errors_page() -> str:
    """docs/errors.md: every row of the catalogue, by code, and the named causes of refused credentials."""
    head = ("code", "name", "AMQP condition", "MQTT", "cause", "remedy")
    every = [*errors.ALL, *access_errors.ALL, *provisioning_errors.ALL, *management_errors.ALL]
    rows = sorted(every, key=lambda row: (row.code, row.name))
    cells = [(str(r.code), r.name, f"`{r.condition}`", str(r.mqtt), r.cause, r.remedy) for r in rows]
    mistakes, breaches = causes_table(causes.ALL + CERTIFICATE), causes_table(causes.BREACHES + HANDSHAKE)
    storage = [(str(r.status), r.name, r.cause, r.remedy) for r in storage_errors.ALL]
    return (
        f"{ERRORS_INTRODUCTION}\n{markdown_table(head, cells)}\n{CAUSES_INTRODUCTION}\n{mistakes}\n"
        f"{ACCESS_INTRODUCTION}\n{causes_table(ACCESS)}\n"
        f"{BREACHES_INTRODUCTION}\n{breaches}\n"
        f"{NETWORK_INTRODUCTION}\n{causes_table(NETWORK)}\n"
        f"{PROVISIONING_INTRODUCTION}\n{causes_table(PROVISIONING)}\n"
        f"{STORAGE_INTRODUCTION}\n{markdown_table(('status', 'name', 'cause', 'remedy'), storage)}"
    )


def causes_table(rows: Iterable[Cause]) -> str:
    cells = [(f"`{cause.name}`", cause.headline, cause.remedy) for cause in rows]
    return markdown_table(("cause", "meaning", "remedy"), cells)


def limits_page() -> str:
    """docs/limits.md: every limit, by name."""
    head = ("limit", "azure", "open", "unit", "why", "source")
    rows = sorted(limits.ALL, key=lambda row: row.name.lower())
    cells = [(r.name, f"{r.azure:,}", f"{r.open:,}", r.unit, r.reason, r.source) for r in rows]
    return (
        f"{LIMITS_INTRODUCTION}\n{markdown_table(head, cells)}\n"
        f"{THROTTLES_INTRODUCTION}\n{throttles_table()}\n{QUOTAS_INTRODUCTION}\n{quotas_table()}"
    )


def throttles_table() -> str:
    head = ("operations", *throttles.Tier, "unit", "above it", "charged", "why", "source")
    cells = [
        (
            row.name, *map(str, row.rates), f"{row.unit} {row.period}",
            "late, then refused" if row.shaped else "refused", row.charge.value, row.reason, row.source,
        )
        for row in throttles.ALL
    ]  # fmt: skip
    return markdown_table(head, cells)


def quotas_table() -> str:
    cells = [(tier, f"{quota.messages:,}", f"{quota.block:,}") for tier, quota in throttles.QUOTAS.items()]
    return markdown_table(("tier", "messages a unit", "bytes in a block"), cells)


def roles_page() -> str:
    """docs/roles.md: what each built-in role allows, a table for each kind of action."""
    return ROLES_INTRODUCTION + "".join(f"\n## {title}\n\n{roles_table(kind)}" for title, kind in ACTIONS.items())


def roles_table(kind: type[Action]) -> str:
    roles = [role.name for role in ALL_ROLES if kind in role.kinds]
    cells = [(f"`{full_name(action)}`", *("x" if action in ALLOWED[role] else "" for role in roles)) for action in kind]
    return markdown_table(("action", *roles), cells)


ACTIONS: dict[str, type[Action]] = {
    "The hub": DataAction,
    "The built-in endpoint": StreamAction,
    "The provisioning service": ProvisioningAction,
    "Management": ManagementAction,
}
PAGES = {"errors.md": errors_page, "limits.md": limits_page, "roles.md": roles_page}


def main() -> int:
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
