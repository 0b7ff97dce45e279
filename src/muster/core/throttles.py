"""What is throttled, and how far, in each tier; how many messages a day has. ``docs/limits.md`` is made from it.

Source of all numbers: docs iot-hub-devguide-quotas-throttling, and the pricing page for messages a day.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

DOCS = "docs iot-hub-devguide-quotas-throttling"


class Tier(StrEnum):
    """The tiers of the cloud service. The basic ones (B1 to B3) have the rates of S1 to S3."""

    F1 = "F1"
    S1 = "S1"
    S2 = "S2"
    S3 = "S3"


class Rate(NamedTuple):
    """So many for each unit, but ``least`` for the hub however few units it has."""

    per_unit: int
    least: int = 0

    def __str__(self) -> str:
        each = f"{self.per_unit:,} a unit"
        if not self.least:
            return each
        return f"{each}, at least {self.least:,}" if self.per_unit else f"{self.least:,}"


class Charge(StrEnum):
    """What counts for the daily quota, by its size. Source: docs iot-hub-devguide-pricing."""

    NOTHING = "nothing"
    REQUEST = "the request"
    ANSWER = "the answer"
    BOTH = "request and answer"


class Throttle(NamedTuple):
    """One kind of operation: ``rates`` by tier, each for ``seconds``, counted in ``unit``.

    ``seconds`` are 1 or 60. ``block``: an operation counts once for each so many bytes begun; 0: once. ``shaped``: what
    is above the rate waits for its turn (``THROTTLE_BACKLOG``) before it is refused.
    """

    name: str
    unit: str
    seconds: int
    rates: tuple[Rate, Rate, Rate, Rate]
    reason: str
    charge: Charge = Charge.NOTHING
    block: int = 0
    shaped: bool = False
    source: str = DOCS

    @property
    def period(self) -> str:
        """The time of its rates in words."""
        return "a second" if self.seconds == 1 else "a minute"

    @property
    def charged(self) -> bool:
        """Whether it counts for the daily quota."""
        return self.charge is not Charge.NOTHING

    def rate(self, tier: Tier) -> Rate:
        """The rate of ``tier``."""
        return self.rates[_PLACES[tier]]


_PLACES = {tier: place for place, tier in enumerate(Tier)}


def _rates(first: Rate, s2: Rate, s3: Rate) -> tuple[Rate, Rate, Rate, Rate]:
    return first, first, s2, s3


_SENDS = _rates(Rate(12, 100), Rate(120), Rate(6000))
_SLOW = _rates(Rate(100), Rate(100), Rate(5000))

CONNECTIONS = Throttle(
    "connections", "connections", 1, _SENDS,
    "New ones of devices and modules that were let in; how many are open has no limit.", shaped=True,
)  # fmt: skip
TELEMETRY = Throttle(
    "telemetry", "sends", 1, _SENDS,
    "Device-to-cloud messages; a batch over HTTPS or AMQP counts once.", Charge.REQUEST, shaped=True,
)  # fmt: skip
COMMANDS = Throttle("commands", "sends", 60, _SLOW, "Cloud-to-device messages, by services.", Charge.REQUEST)
COMMAND_RECEIVES = Throttle(
    "command-receives", "receives", 60, _rates(Rate(1000), Rate(1000), Rate(50_000)),
    "Of cloud-to-device messages over HTTPS, where devices ask again and again.",
)  # fmt: skip
UPLOADS = Throttle("file-uploads", "beginnings", 60, _SLOW, "File uploads that devices begin.", Charge.REQUEST)
METHODS = Throttle(
    "methods", "blocks of 4 KiB", 1, _rates(Rate(40), Rate(120), Rate(6000)),
    "160 KB, 480 KB and 24 MB a second; a payload counts as a block at least.", Charge.BOTH, block=4096,
)  # fmt: skip
QUERIES = Throttle(
    "queries", "pages", 60, _rates(Rate(20), Rate(20), Rate(1000)), "Of twins; each page is a query.", Charge.ANSWER
)
TWIN_READS = Throttle(
    "twin-reads", "reads", 1, _rates(Rate(0, 100), Rate(10, 100), Rate(500)),
    "By devices and services, digital twins too.", Charge.ANSWER,
)  # fmt: skip
TWIN_UPDATES = Throttle(
    "twin-updates", "updates", 1, _rates(Rate(0, 50), Rate(5, 50), Rate(250)),
    "By devices and services, digital twins too.", Charge.REQUEST,
)  # fmt: skip
REGISTRY = Throttle(
    "registry", "operations", 60, _SLOW,
    "Identities created, read, listed, updated and deleted; a bulk call counts once.",
)  # fmt: skip
_SERVICE = _rates(Rate(0, 1000), Rate(0, 1000), Rate(0, 1000))
_SERVICE_DOCS = "docs about-iot-dps, Quotas and limits"
REGISTRATIONS = Throttle(
    "registrations", "registrations", 60, _SERVICE,
    "Of devices that prove who they are to the provisioning service; asking what came of it does not count.",
    source=_SERVICE_DOCS,
)  # fmt: skip
PROVISIONING = Throttle(
    "provisioning", "operations", 60, _SERVICE,
    "By services: enrollments and registrations made, read, listed, changed and deleted.", source=_SERVICE_DOCS,
)  # fmt: skip

ALL: tuple[Throttle, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Throttle))


class Quota(NamedTuple):
    """How many messages of ``block`` bytes a unit has a day; a larger one counts once for each block begun."""

    messages: int
    block: int


QUOTAS: dict[Tier, Quota] = {
    Tier.F1: Quota(8_000, 512),
    Tier.S1: Quota(400_000, 4096),
    Tier.S2: Quota(6_000_000, 4096),
    Tier.S3: Quota(300_000_000, 4096),
}


def as_json(throttle: Throttle) -> dict[str, Any]:
    """A row as ``muster limits --json`` tells it."""
    rates = {
        tier.value: {"perUnit": rate.per_unit, "least": rate.least}
        for tier, rate in zip(Tier, throttle.rates, strict=True)
    }
    return {**throttle._asdict(), "charge": throttle.charge.value, "rates": rates}


class Plan(NamedTuple):
    """What a hub is given: a tier, and how many units of it (the free one has one)."""

    tier: Tier
    units: int = 1

    def limit(self, throttle: Throttle) -> int:
        """How many ``throttle`` lets pass in its ``seconds``."""
        rate = throttle.rate(self.tier)
        return max(rate.per_unit * self.units, rate.least)

    @property
    def quota(self) -> Quota:
        """The messages of a day, of all units."""
        messages, block = QUOTAS[self.tier]
        return Quota(messages * self.units, block)
