"""``muster provisioning enrollment`` and ``muster provisioning group``: two kinds of enrollments, the same commands."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click

from muster.cli.target import deployment_option, login_options, provisioning_client
from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, HubError
from muster.dialect.enrollment_bodies import ID_NAMES, LIST_NAMES
from muster.provisioning.attestation.symmetric_key import derive
from muster.provisioning.model import AllocationKind, EnrollmentKind

F = TypeVar("F", bound=Callable[..., Any])

WEBHOOK_VERSION = "2021-10-01"
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_REPROVISION = {"migrate": (True, True), "reset": (True, False), "never": (False, False)}


def _shared(function: F) -> F:
    """What enrollments of both kinds may have."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, keys included."),
        click.option("--disabled", is_flag=True, help="Let nobody register by it yet."),
        click.option("--edge", is_flag=True, help="Register an edge device at the hub."),
        click.option("--reprovision", type=click.Choice(list(_REPROVISION)),
                     help="When a device registers again: move it with its data, as new, or not at all."),
        click.option("--webhook", metavar="URL", help="Ask this webhook which hub a device gets."),
        click.option("--allocation", type=click.Choice([kind.value for kind in AllocationKind][:3]),
                     help="How a hub is chosen.  [default: hashed]"),
        click.option("--hub", "--iot-hub", "hubs", metavar="HOST", multiple=True,
                     help="Only this linked hub; may be repeated."),
        click.option("--twin", type=_FILE,
                     help="JSON file with the first twin: {\"tags\": {}, \"properties\": {\"desired\": {}}}."),
        click.option("--credential-policy", metavar="NAME",
                     help="Issue certificates to devices that send signing requests: `default`, or one of serve."),
        click.option("--authority", metavar="NAME", help="A verified certificate authority (muster ca add)."),
        click.option("--secondary-certificate", type=_FILE, help="A second certificate that is good too."),
        click.option("--certificate", type=_FILE, help="Attest by X.509 with the certificate in this file."),
    ):  # fmt: skip
        function = option(function)
    return deployment_option(login_options(function))


def commands_of(kind: EnrollmentKind) -> click.Group:
    """The group of commands for enrollments of ``kind``."""
    name = "group" if kind is EnrollmentKind.GROUP else "enrollment"
    group = click.Group(name, help=_HELP[kind])
    group.add_command(_adding(kind))
    for make in (_listing, _showing, _deleting):
        group.add_command(make(kind))
    if kind is EnrollmentKind.GROUP:
        group.add_command(key)
    return group


_HELP = {
    EnrollmentKind.INDIVIDUAL: "Enroll single devices.",
    EnrollmentKind.GROUP: "Enroll all devices that share a key or a certificate authority.",
}
_ADD_HELP = {
    EnrollmentKind.INDIVIDUAL: "Enroll the device with registration id ID, or change how it is.\n\nWithout a "
    "certificate or a TPM it attests by symmetric key, which is made and printed.",
    EnrollmentKind.GROUP: "Enroll a group of devices as ID, or change how it is.\n\nWithout a certificate devices "
    "attest by keys that derive from the group's: see group key. A certificate is that of the authority that issues "
    "the devices' own.",
}


def _adding(kind: EnrollmentKind) -> click.Command:
    @click.command(help=_ADD_HELP[kind])
    @click.argument("name", metavar="ID")
    @_shared
    def add(*, name: str, as_json: bool, data: Path, login: str | None, ca: Path | None, **given: Any) -> None:
        client = provisioning_client(data, login, ca)
        body = _body(kind, name, given)
        made = client.call("PUT", _path(kind, name), body)
        if as_json:
            click.echo(json.dumps(made, indent=1))
        else:
            _tell(kind, made)
            keys = made["attestation"].get("symmetricKey")
            if keys is not None:
                click.echo(f"  primary key  {keys['primaryKey']}")
                if kind is EnrollmentKind.GROUP:
                    click.echo(f"  a device's   muster provisioning group key {made[ID_NAMES[kind]]} <registration id>")

    if kind is EnrollmentKind.INDIVIDUAL:
        add = click.option("--device-id", metavar="ID", help="Its id at the hub.  [default: the registration id]")(add)
        add = click.option(
            "--tpm",
            type=_FILE,
            help="Attest by the TPM whose public endorsement key is in this file, "
            "as tpm2_readpublic writes it or in base64.",
        )(add)
    return add


def _listing(kind: EnrollmentKind) -> click.Command:
    @click.command("list", help="List them all.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, one a line.")
    @deployment_option
    @login_options
    def list_(*, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
        client = provisioning_client(data, login, ca)
        asked = {"query": f"SELECT * FROM {LIST_NAMES[kind]}"}  # noqa: S608 - names of ours
        for page in client.pages(f"/{LIST_NAMES[kind]}/query", asked):
            for one in page:
                if as_json:
                    click.echo(json.dumps(one))
                else:
                    _tell(kind, one)

    return list_


def _showing(kind: EnrollmentKind) -> click.Command:
    @click.command(help="Print one as JSON, with what became of its devices.")
    @click.argument("name", metavar="ID")
    @click.option("--keys", is_flag=True, help="With its keys.")
    @deployment_option
    @login_options
    def show(*, name: str, keys: bool, data: Path, login: str | None, ca: Path | None) -> None:
        client = provisioning_client(data, login, ca)
        one = client.call("GET", _path(kind, name))
        if keys:
            one["attestation"] = client.call("POST", f"{_path(kind, name)}/attestationmechanism")
        if kind is EnrollmentKind.GROUP:
            pages = client.pages(f"/registrations/{quote(name, safe='')}/query", {})
            one["registrations"] = [state for page in pages for state in page]
        click.echo(json.dumps(one, indent=1))

    return show


def _deleting(kind: EnrollmentKind) -> click.Command:
    @click.command(help="Delete one. Its devices stay at their hubs, and cannot register again.")
    @click.argument("name", metavar="ID")
    @deployment_option
    @login_options
    def delete(*, name: str, data: Path, login: str | None, ca: Path | None) -> None:
        provisioning_client(data, login, ca).call("DELETE", _path(kind, name))

    return delete


@click.command()
@click.argument("name", metavar="GROUP")
@click.argument("registration_id", metavar="REGISTRATION_ID")
@click.option("--secondary", is_flag=True, help="From the group's secondary key.")
@deployment_option
@login_options
def key(*, name: str, registration_id: str, secondary: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """Print the key of a device of GROUP, derived from the group's.

    Upper and lower case of the registration id count here: derive it as the device sends it.
    """
    client = provisioning_client(data, login, ca)
    held = client.call("POST", f"{_path(EnrollmentKind.GROUP, name)}/attestationmechanism")
    if "symmetricKey" not in held:
        raise HubError(INVALID_OPERATION, f"The group {name} attests by {held['type']}, its devices have no keys.")
    click.echo(derive(held["symmetricKey"]["secondaryKey" if secondary else "primaryKey"], registration_id))


def _path(kind: EnrollmentKind, name: str) -> str:
    return f"/{LIST_NAMES[kind]}/{quote(name, safe='')}"


def _body(kind: EnrollmentKind, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """An enrollment from the options."""
    body: dict[str, Any] = {
        ID_NAMES[kind]: name,
        "attestation": _attestation(kind, given),
        "capabilities": {"iotEdge": given["edge"]},
        "iotHubs": list(given["hubs"]),
        "provisioningStatus": "disabled" if given["disabled"] else "enabled",
        "deviceId": given.get("device_id"),
        "credentialPolicyName": given["credential_policy"],
    }
    if given["allocation"] is not None and given["webhook"] is not None:
        raise click.UsageError("Give one of --allocation and --webhook.")
    if given["webhook"] is not None:
        definition = {"webhookUrl": given["webhook"], "apiVersion": WEBHOOK_VERSION}
        body |= {"allocationPolicy": AllocationKind.CUSTOM.value, "customAllocationDefinition": definition}
    elif given["allocation"] is not None:
        body["allocationPolicy"] = given["allocation"]
    if given["reprovision"] is not None:
        update, migrate = _REPROVISION[given["reprovision"]]
        body["reprovisionPolicy"] = {"updateHubAssignment": update, "migrateDeviceData": migrate}
    if given["twin"] is not None:
        try:
            body["initialTwin"] = json.loads(given["twin"].read_bytes())
        except ValueError as error:
            raise HubError(ARGUMENT_INVALID, f"{given['twin']} is not JSON: {error}.") from None
    return body


def _attestation(kind: EnrollmentKind, given: dict[str, Any]) -> dict[str, Any]:
    first, second, authority = given["certificate"], given["secondary_certificate"], given["authority"]
    tpm = given.get("tpm")
    if sum(one is not None for one in (first, authority, tpm)) > 1:
        raise click.UsageError("Give one of --certificate, --authority and --tpm.")
    if second is not None and first is None:
        raise click.UsageError("--secondary-certificate needs --certificate.")
    if tpm is not None:
        content = tpm.read_bytes()
        key = content.decode().strip() if content.isascii() else base64.b64encode(content).decode()
        return {"type": "tpm", "tpm": {"endorsementKey": key}}
    if authority is not None:
        return {"type": "x509", "x509": {"caReferences": {"primary": authority}}}
    if first is None:
        return {"type": "symmetricKey"}
    role = "signingCertificates" if kind is EnrollmentKind.GROUP else "clientCertificates"
    files = {"primary": first, **({} if second is None else {"secondary": second})}
    certificates = {slot: {"certificate": base64.b64encode(file.read_bytes()).decode()} for slot, file in files.items()}
    return {"type": "x509", "x509": {role: certificates}}


def _tell(kind: EnrollmentKind, one: dict[str, Any]) -> None:
    state = one.get("registrationState", {})
    told = f"  {state['status']} {state.get('assignedHub', '')}".rstrip() if state else ""
    click.echo(f"{one[ID_NAMES[kind]]}  {one['attestation']['type']}  {one['provisioningStatus']}{told}")
