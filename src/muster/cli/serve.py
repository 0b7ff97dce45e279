"""``muster serve``: the hub in the foreground."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from muster.cli.hub_options import HubType, PolicyType, sources

if TYPE_CHECKING:
    from muster.node.certificate_files import CertificateFiles
    from muster.node.settings import HubSettings, Settings

LOG_LEVELS = ("debug", "info", "warning", "error")
KEYS_ARE_PUBLIC = (
    "Whoever reaches this hub owns it: the keys of --ephemeral are known to everyone. Use --data DIR, or bind loopback."
)


def _sources(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return sources(values)


def _issuers(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from muster.access.issuers import IssuerUrlError, check_url  # noqa: PLC0415

    try:
        return tuple(map(check_url, values))
    except IssuerUrlError as error:
        raise click.BadParameter(f"{error}.") from error


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default="muster-data", show_default=True,
              help="Directory that keeps everything.")  # fmt: skip
@click.option("--ephemeral", is_flag=True, help="Keep nothing; use the well-known development keys.")
@click.option("--hostname", multiple=True, default=("localhost",), show_default=True,
              help="A name of the hub; the first goes into connection strings. Repeatable.")  # fmt: skip
@click.option("--hub", "--hubs", "hubs", multiple=True, type=HubType(), metavar="NAME=HOST[,HOST...]",
              help="Another hub, with devices, keys and telemetry of its own, and its names. Repeatable; in "
                   "muster.toml a table [hubs.NAME].")  # fmt: skip
@click.option("--dps-hostname", default="", help="The provisioning service's name.  [default: the hub's]")
@click.option("--bind", multiple=True, default=("127.0.0.1", "::1"), show_default=True,
              help="An address to listen on. Repeatable.")  # fmt: skip
@click.option("--mqtt-port", type=click.IntRange(0, 65535), default=8883, show_default=True, help="0: any free one.")
@click.option("--amqp-port", type=click.IntRange(0, 65535), default=5671, show_default=True, help="0: any free one.")
@click.option("--https-port", type=click.IntRange(0, 65535), default=443, show_default=True,
              help="HTTPS and WebSocket; 0: any free one.")  # fmt: skip
@click.option("--amqp-plain-port", type=click.IntRange(0, 65535), default=None,
              help="AMQP without TLS, for Event Hubs clients with UseDevelopmentEmulator=true (they expect 5672).  "
                   "[default: closed]")  # fmt: skip
@click.option("--profile", type=click.Choice(["open", "azure"]), default="open", show_default=True,
              help="azure copies every limit of the cloud service; open lifts those users hate.")  # fmt: skip
@click.option("--principal-rate", type=click.IntRange(0), default=0, metavar="N",
              help="Calls a second that each policy, or other caller of the service API, may make; beyond, and ten "
                   "seconds' worth at once, 429.  [default: any number]")  # fmt: skip
@click.option("--throttle", type=click.Choice(["on", "off"]), default=None,
              help="Enforce rates and quota of --tier and --units.  [default: on with --profile azure]")  # fmt: skip
@click.option("--tier", type=click.Choice(["F1", "S1", "S2", "S3"], case_sensitive=False), default="S1",
              show_default=True, help="Whose rates and quota are enforced; `muster limits` lists them.")  # fmt: skip
@click.option("--units", type=click.IntRange(1, 200), default=1, show_default=True, help="How many units of the tier.")
@click.option("--partitions", type=click.IntRange(1, 32), default=4, show_default=True,
              help="Of the built-in endpoint; fixed at the first start.")  # fmt: skip
@click.option("--consumer-group", multiple=True, help="A consumer group besides $Default. Repeatable.")
@click.option("--retention-days", type=click.FloatRange(min=0, min_open=True), default=7.0, show_default=True,
              help="How long telemetry is kept.")  # fmt: skip
@click.option("--retention-mib", type=click.IntRange(1), default=10240, show_default=True,
              help="How much telemetry is kept.")  # fmt: skip
@click.option("--events", multiple=True, callback=_sources, metavar="NAME[,NAME...]",
              help="Events that readers get beside telemetry: twin, lifecycle, connection, digital-twin.  "
                   "[default: none]")  # fmt: skip
@click.option("--c2d-ttl-minutes", type=click.IntRange(1, 2880), default=60, show_default=True,
              help="How long a cloud-to-device message waits that brings no expiry time.")  # fmt: skip
@click.option("--c2d-max-deliveries", type=click.IntRange(1, 100), default=10, show_default=True,
              help="After so many failed deliveries a cloud-to-device message is given up.")  # fmt: skip
@click.option("--storage", type=click.Choice(["embedded", "off"]), default="embedded", show_default=True,
              help="Where files of devices go: into the data directory, or nowhere.")  # fmt: skip
@click.option("--storage-connection-string", default="",
              help="Send files to this Azure Storage account or Azurite instead.")  # fmt: skip
@click.option("--storage-container", default="muster-uploads", show_default=True,
              help="The container there; it must exist.")  # fmt: skip
@click.option("--upload-mib", type=click.IntRange(1), default=10240, show_default=True,
              help="How much the data directory keeps of files.")  # fmt: skip
@click.option("--upload-ttl-minutes", type=click.IntRange(1, 1440), default=60, show_default=True,
              help="How long a device may take to upload a file.")  # fmt: skip
@click.option("--file-notifications", type=click.Choice(["on", "off"]), default=None,
              help="Tell services of files that have arrived.  [default: on with --profile open]")  # fmt: skip
@click.option("--fault-injection", type=click.Choice(["on", "off"]), default=None,
              help="Let messages ask for faults of their sender's connection, for tests of clients.  "
                   "[default: on with --ephemeral]")  # fmt: skip
@click.option("--database", default="", metavar="URL",
              help="Keep all but telemetry in this PostgreSQL (postgresql://...), shared by any number of equal nodes; "
                   "with --bus.")  # fmt: skip
@click.option("--bus", default="", metavar="URL[,URL...]",
              help="Keep telemetry in this NATS JetStream (nats://...), with sync_interval: always in its servers, "
                   "and talk to other nodes by it.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True,
              help="So many processes on the same ports, one for each core; all serve the same hubs.")  # fmt: skip
@click.option("--sync", type=click.Choice(["full", "off"]), default="full", show_default=True,
              help="full: acknowledged messages survive a power cut; off: only a crash of the hub.")  # fmt: skip
@click.option("--index", multiple=True, metavar="PROPERTY",
              help="A property of twins that queries find fast, as tags.building. Repeatable.")  # fmt: skip
@click.option("--disable-local-auth", is_flag=True, help="Take no tokens of shared access policies.")
@click.option("--disable-device-sas", is_flag=True, help="Take no SAS tokens of devices: certificates only.")
@click.option("--disable-module-sas", is_flag=True, help="Take no SAS tokens of modules: certificates only.")
@click.option("--oidc-issuer", multiple=True, callback=_issuers, metavar="URL",
              help="Take bearer tokens of services that this OpenID Connect issuer made; roles by name in their claim "
                   "roles. Repeatable.")  # fmt: skip
@click.option("--oidc-audience", multiple=True, metavar="NAME",
              help="An audience that such tokens may have, besides Azure's own. Repeatable.")  # fmt: skip
@click.option("--oidc-ca", type=click.Path(path_type=Path, dir_okay=False),
              help="Certificates (PEM) to trust at the issuers, besides the system's.")  # fmt: skip
@click.option("--roles", type=click.Path(path_type=Path, dir_okay=False),
              help="A file (TOML or JSON) of roles and of grants to subjects, groups and applications, beside those of "
                   "`muster role`; taken anew when it changes, and at once on SIGHUP.")  # fmt: skip
@click.option("--certificate", type=click.Path(path_type=Path, dir_okay=False),
              help="Show clients the certificate in this file (PEM, its issuers behind it) instead of one by the hub's "
                   "own CA; taken anew when it changes, and at once on SIGHUP.")  # fmt: skip
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="The private key of --certificate (PEM).")
@click.option("--credential-policy", "credential_policies", multiple=True, type=PolicyType(),
              metavar="NAME=CERTIFICATE,KEY[,DAYS]",
              help="An authority that issues certificates to devices that register, besides `default`, that of "
                   "`muster ca init`: its certificate with its issuers behind it, its key (PEM), and for how long.  "
                   "[default: 30 days]  Repeatable.")  # fmt: skip
@click.option("--ready-file", type=click.Path(path_type=Path), help="JSON written once every listener accepts.")
@click.option("--demo", is_flag=True, help="Run a simulated device that sends telemetry.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True,
              help="How much goes to standard error.")  # fmt: skip
def serve(**options: Any) -> None:
    """Run the hub in the foreground. SIGTERM or Ctrl-C drains and ends it."""
    logging.basicConfig(
        level=options["log_level"].upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    settings = _settings(options)
    os.umask(0o077)  # whatever is written holds keys or messages
    import uvloop  # noqa: PLC0415 - slow to import, and only this command needs it

    from muster.node.process import raise_open_files  # noqa: PLC0415

    raise_open_files()
    if options["workers"] > 1:
        _serve_many(settings, options["workers"], demo=options["demo"])
    uvloop.run(_serve(settings, demo=options["demo"]))


def _serve_many(settings: Settings, count: int, *, demo: bool) -> NoReturn:
    import uvloop  # noqa: PLC0415

    from muster.node.directory import DirectoryInUseError  # noqa: PLC0415
    from muster.node.process import notify  # noqa: PLC0415
    from muster.node.sockets import BindError  # noqa: PLC0415
    from muster.node.workers import Workers  # noqa: PLC0415

    if demo:
        raise click.UsageError("--demo runs in one process; leave it out, or --workers.")

    def greet(facts: Mapping[str, Any]) -> None:
        _greet(dict(facts), settings, demo=False)
        notify("READY=1")

    def be_one(own: Settings) -> None:
        try:
            uvloop.run(_serve(own, demo=False, greet=False))
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)

    try:
        workers = Workers(settings, count, be_one)
        code = workers.run(greet)
    except (BindError, DirectoryInUseError, OSError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(code)


def _settings(options: dict[str, Any]) -> Settings:
    from muster.core.limits import Profile  # noqa: PLC0415
    from muster.core.throttles import Tier  # noqa: PLC0415
    from muster.events.model import Source  # noqa: PLC0415
    from muster.identity.hub import Switches  # noqa: PLC0415
    from muster.node.credential_policies import PolicyFiles  # noqa: PLC0415
    from muster.node.settings import DAY_SECONDS, Settings  # noqa: PLC0415

    if options["tier"] == "F1" and options["units"] > 1:
        raise click.UsageError("--tier F1, the free one, has a single unit; leave --units out, or use S1.")
    ephemeral = options["ephemeral"]
    bus = _bus(options["database"], options["bus"], ephemeral=ephemeral)
    settings = Settings(
        data=None if ephemeral else options["data"],
        hostnames=tuple(options["hostname"]),
        hubs=tuple(map(_hub_settings, options["hubs"])),
        dps_hostname=options["dps_hostname"],
        bind=tuple(options["bind"]),
        mqtt_port=options["mqtt_port"],
        amqp_port=options["amqp_port"],
        https_port=options["https_port"],
        amqp_plain_port=options["amqp_plain_port"],
        profile=Profile(options["profile"]),
        throttle=_on(options["throttle"]),
        principal_rate=options["principal_rate"],
        tier=Tier(options["tier"]),
        units=options["units"],
        partitions=options["partitions"],
        consumer_groups=tuple(options["consumer_group"]),
        retention_seconds=int(options["retention_days"] * DAY_SECONDS),
        retention_bytes=options["retention_mib"] * 1024**2,
        events=frozenset(map(Source, options["events"])),
        command_ttl_seconds=60 * options["c2d_ttl_minutes"],
        command_deliveries=options["c2d_max_deliveries"],
        sync=options["sync"] == "full",
        database=options["database"],
        bus=bus,
        storage=options["storage"] == "embedded",
        storage_connection_string=options["storage_connection_string"],
        storage_container=options["storage_container"],
        upload_bytes=options["upload_mib"] * 1024**2,
        upload_ttl_seconds=options["upload_ttl_minutes"] * 60,
        file_notifications=_on(options["file_notifications"]),
        fault_injection=_on(options["fault_injection"]),
        indexes=tuple(options["index"]),
        ready_file=options["ready_file"],
        credential_policies=tuple(PolicyFiles(*one) for one in options["credential_policies"]),
        oidc_issuers=options["oidc_issuer"],
        oidc_audiences=options["oidc_audience"],
        oidc_ca=options["oidc_ca"],
        roles_file=options["roles"],
        certificate=_certificate_files(options["certificate"], options["key"]),
        switches=Switches(options["disable_local_auth"], options["disable_device_sas"], options["disable_module_sas"]),
    )
    if ephemeral and settings.profile is Profile.AZURE and not settings.loopback_only:
        raise click.UsageError(
            "--ephemeral uses keys that everyone knows; with --profile azure it serves loopback only. "
            "Use --data, or bind 127.0.0.1 and ::1."
        )
    return settings


def _bus(database: str, bus: str, *, ephemeral: bool) -> tuple[str, ...]:
    """The servers of ``--bus``, none where the node is the only one."""
    if bool(database) is not bool(bus):
        raise click.UsageError(
            "--database and --bus go together: one keeps what nodes share, by the other they talk and keep telemetry."
        )
    if database and ephemeral:
        raise click.UsageError("--ephemeral keeps nothing; leave it out, or --database and --bus.")
    if database and not database.startswith(("postgresql://", "postgres://")):
        raise click.UsageError("--database must be the URL of a PostgreSQL: postgresql://USER:PASSWORD@HOST/NAME")
    return tuple(filter(None, (url.strip() for url in bus.split(","))))


def _hub_settings(given: dict[str, Any]) -> HubSettings:
    from muster.core.throttles import Tier  # noqa: PLC0415
    from muster.events.model import Source  # noqa: PLC0415
    from muster.identity.hub import Switches  # noqa: PLC0415
    from muster.node.settings import HubSettings  # noqa: PLC0415

    if "events" in given:
        given["events"] = frozenset(map(Source, given["events"]))
    if "tier" in given:
        given["tier"] = Tier(given["tier"])
    if "switches" in given:
        given["switches"] = Switches(**given["switches"])
    return HubSettings(**given)


def _certificate_files(certificate: Path | None, key: Path | None) -> CertificateFiles | None:
    from muster.node.certificate_files import CertificateFiles  # noqa: PLC0415

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("--certificate and --key go together: a certificate is of no use without its key.")
    return CertificateFiles(certificate, key)


def _on(choice: str | None) -> bool | None:
    """What a switch of ``on`` and ``off`` says, ``None`` when it was not given."""
    return None if choice is None else choice == "on"


async def _serve(settings: Settings, *, demo: bool, greet: bool = True) -> None:
    from muster.core.errors import HubError  # noqa: PLC0415
    from muster.node.certificate_files import CertificateFileError  # noqa: PLC0415
    from muster.node.directory import DirectoryInUseError, write_private  # noqa: PLC0415
    from muster.node.node import Node  # noqa: PLC0415
    from muster.node.process import notify, settle_memory, supervised  # noqa: PLC0415
    from muster.node.sockets import BindError  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = Node(settings)
    if settings.certificate or settings.roles_file or supervised():  # else it ends the hub, as a terminal's that closes
        loop.add_signal_handler(signal.SIGHUP, node.reload_files)
    try:
        await node.start()
    except (BindError, CertificateFileError, DirectoryInUseError, HubError, OSError) as error:
        raise click.ClickException(str(error)) from error
    demo_task = None
    try:
        if stop.is_set():  # told to end while it was starting
            return
        if demo:
            from muster.testing.demo import run_demo  # noqa: PLC0415

            demo_task = loop.create_task(run_demo(node))
        for note in node.notes:
            click.echo(note, err=True)
        if settings.data is None and not settings.loopback_only:
            click.echo(KEYS_ARE_PUBLIC, err=True)
        if greet:
            _greet(node.facts, settings, demo=demo)
            notify("READY=1")
        if settings.ready_file is not None:
            write_private(settings.ready_file, json.dumps(node.facts, indent=1).encode())
        settle_memory()
        await stop.wait()
        notify("STOPPING=1")
    finally:
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        if demo_task is not None:
            demo_task.cancel()
        await node.stop()


def _greet(facts: dict[str, Any], settings: Settings, *, demo: bool) -> None:
    """What to do next, the ready line last."""
    where = "nothing is kept" if settings.data is None else f"data in {settings.data}"
    if settings.clustered:
        where = f"one of several nodes, {settings.data} is its own"
    lines = [
        f"Muster hub {facts['HUB_HOST']} ({settings.profile} profile, {where})",
        f"  owner       {facts['HUB_CONNECTION_STRING']}",
        f"  events      {facts['EVENTHUB_CONNECTION_STRING']}",
        f"  trust       {facts['HUB_CA_FILE']}",
    ]
    others = [name for name, names in facts["hubs"].items() if names["HUB_HOST"] != facts["HUB_HOST"]]
    lines += [f"  hub         {facts['hubs'][name]['HUB_HOST']}: add --hub {name} to commands" for name in others]
    lines.append("Next, in another terminal:")
    steps = list(_steps(facts, settings, demo=demo))
    width = max(len(command) for command, _ in steps)
    lines += [f"  {command:<{width}}  {why}" for command, why in steps]
    ports = facts["ports"]
    lines.append(f"ready: MQTT {ports['mqtt']}, AMQP {ports['amqp']}, HTTPS and WebSocket {ports['https']}")
    click.echo("\n".join(lines))


def _steps(facts: dict[str, Any], settings: Settings, *, demo: bool) -> Iterator[tuple[str, str]]:
    """Commands, and what each does. An ephemeral hub has a directory too, for as long as it runs."""
    activate = Path(sys.prefix, "bin", "activate")
    if sys.prefix != sys.base_prefix and "VIRTUAL_ENV" not in os.environ and activate.exists():
        yield f". {shlex.quote(str(activate))}", "so that the shell finds muster"
    directory = Path(facts["HUB_CA_FILE"]).parent if settings.data is None else settings.data
    data = "" if str(directory) == "muster-data" else f" --data {shlex.quote(str(directory))}"
    yield f"muster env{data}", "what clients need, one NAME=value a line"
    yield f"muster device add my-device{data}", "register a device, print its connection string"
    yield f"muster monitor{data}", "watch telemetry arrive" + (" (the demo device is sending)" if demo else "")
