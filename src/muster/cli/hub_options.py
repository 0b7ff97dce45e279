"""``--hub NAME=HOST[,HOST...]`` of ``muster serve``, the tables ``[hubs.NAME]`` of ``muster.toml``, and
``--credential-policy``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from muster.core.certificate_limits import ISSUED_DAYS, ISSUED_DAYS_UNSAID

DAY_SECONDS, MIB = 86_400, 1024**2
EVENTS = ("twin", "lifecycle", "connection", "digital-twin")


def sources(values: tuple[str, ...]) -> list[str]:
    """The names in a list that may be given in parts, each with commas. Raises ``click.BadParameter``."""
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in EVENTS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(EVENTS)}.")
    return names


class PolicyType(click.ParamType[tuple[str, Path, Path, int]]):
    """A credential policy: the fields of ``node.credential_policies.PolicyFiles``."""

    name = "NAME=CERTIFICATE,KEY[,DAYS]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path, Path, int]:
        """Read ``name=file,file,days``."""
        name, _, rest = str(value).partition("=")
        certificate, _, more = rest.partition(",")
        key, _, days = more.partition(",")
        if not (name.strip() and certificate.strip() and key.strip()):
            self.fail(f"{value!r} is not {self.name}, as factory=issuing.pem,issuing.key,90", param, ctx)
        unsaid = str(ISSUED_DAYS_UNSAID.open)
        count = int(click.IntRange(1, ISSUED_DAYS.open)(days or unsaid, param, ctx))
        return name.strip(), Path(certificate.strip()), Path(key.strip()), count


class HubType(click.ParamType[dict[str, Any]]):
    """A hub besides the first: the fields of ``node.settings.HubSettings`` that are given, by their names.

    ``events`` is a list of names and ``switches`` a mapping of those that are on.
    """

    name = "NAME=HOST[,HOST...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Read ``name=host,host``; what ``from_tables`` made passes."""
        if isinstance(value, dict):
            return value
        name, equals, hosts = str(value).partition("=")
        hostnames = tuple(host.strip() for host in hosts.split(",") if host.strip())
        if not equals or not name.strip() or not hostnames:
            self.fail(f"{value!r} is not NAME=HOST[,HOST...], as west=west.example", param, ctx)
        return {"name": name.strip(), "hostnames": hostnames}

    def from_tables(self, tables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The hubs of the tables below ``hubs`` in a TOML file. Raises ``click.UsageError`` naming table and key."""
        return [_from_table(name, table) for name, table in tables.items()]


def _from_table(name: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise click.UsageError(f'hubs.{name} is not a table, write [hubs.{name}] and below it hostname = "..."')
    found: dict[str, Any] = {"name": name}
    switches = {}
    for key, value in table.items():
        flag = key.replace("-", "_")
        try:
            if flag in _SWITCHES:
                switches[flag] = click.BOOL.convert(value, None, None)
            elif flag in _TEXTS:
                found[_TEXTS[flag]] = _texts(value)
            elif flag == "events":
                found[flag] = sources(_texts(value))
            elif flag in _FIELDS:
                field, kind, unit = _FIELDS[flag]
                read = kind.convert(value, None, None)
                found[field] = read if unit is None else int(read * unit)
            else:
                known = ", ".join(one.replace("_", "-") for one in (*_TEXTS, "events", *_FIELDS, *_SWITCHES))
                raise click.UsageError(f"[hubs.{name}] {key!r} is not known there, known are {known}")
        except click.BadParameter as error:
            raise click.UsageError(f"[hubs.{name}] {key}: {error.message}") from error
    if not found.get("hostnames"):
        raise click.UsageError(f"[hubs.{name}] needs hostname, the name that clients reach the hub by")
    return {**found, "switches": switches} if switches else found


def _texts(value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise click.BadParameter("give a text, or a list of texts")
    return tuple(texts)


_SWITCHES = ("disable_local_auth", "disable_device_sas", "disable_module_sas")
_TEXTS = {"hostname": "hostnames", "hostnames": "hostnames", "consumer_group": "consumer_groups"}
_FIELDS: dict[str, tuple[str, click.ParamType[Any], int | None]] = {
    "partitions": ("partitions", click.IntRange(1, 32), None),
    "retention_days": ("retention_seconds", click.FloatRange(min=0, min_open=True), DAY_SECONDS),
    "retention_mib": ("retention_bytes", click.IntRange(1), MIB),
    "c2d_ttl_minutes": ("command_ttl_seconds", click.IntRange(1, 2880), 60),
    "c2d_max_deliveries": ("command_deliveries", click.IntRange(1, 100), None),
    "storage_container": ("storage_container", click.STRING, None),
    "tier": ("tier", click.Choice(["F1", "S1", "S2", "S3"], case_sensitive=False), None),
    "units": ("units", click.IntRange(1, 200), None),
}
"""What each is called in the settings, what may be given, and how many of the settings' units that is."""
