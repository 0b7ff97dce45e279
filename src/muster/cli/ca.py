"""``muster ca``: whom the hub trusts to issue certificates to devices, what they have revoked, and one of our own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click

from muster.cli.network import HubClient
from muster.cli.target import data_option, login_options, running
from muster.core.ambient import Ambient, SystemAmbient
from muster.core.certificate_limits import LEAST_REVOCATION_REFRESH, MOST_REVOCATION_REFRESH, REVOCATION_REFRESH
from muster.core.errors import INVALID_OPERATION, HubError
from muster.identity.hub import hub_name
from muster.identity.model import IdentityKey
from muster.node.device_authority import (
    ISSUING,
    ROOT,
    DeviceAuthorityFiles,
    name_at_hub,
    write_new,
)

if TYPE_CHECKING:
    from muster.issuing.making import Credentials

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)

_HOW_TO_PROVE = """Issue a certificate with CN={code} with the authority's key, for example
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout proof.key \\
    -subj /CN={code} | openssl x509 -req -CA ca.pem -CAkey ca.key -days 1 -out proof.pem
and then run: muster ca verify {name} proof.pem"""


def _hub_options(function: F) -> F:
    return data_option(login_options(function))


@click.group()
def ca() -> None:
    """Trust certificate authorities for devices, load what they revoke, issue certificates."""


@ca.command()
@click.argument("name")
@click.argument("file", type=_FILE)
@click.option("--set-verified", is_flag=True, help="Vouch for it, without proving that its key is yours.")
@_hub_options
def add(*, name: str, file: Path, set_verified: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """Register the authority's certificate in FILE (PEM or DER) as NAME, or put it in the place of the present one."""
    made = _put(_client(data, login, ca), name, file.read_bytes(), verified=set_verified or None)
    _tell(made)
    if not made["properties"]["isVerified"]:
        click.echo(f"Devices are let in once it is verified: muster ca verify {name}")


@ca.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one authority a line.")
@_hub_options
def list_(*, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """List the authorities."""
    hub = _client(data, login, ca)
    for one in hub.call("GET", _path(hub))["value"]:
        if as_json:
            click.echo(json.dumps(one))
        else:
            _tell(one)


@ca.command()
@click.argument("name")
@_hub_options
def show(*, name: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Print an authority as JSON, with its rules of revocation and its lists."""
    hub = _client(data, login, ca)
    one = hub.call("GET", _path(hub, name))
    rules = hub.call("GET", "/$muster/authorities")["authorities"]
    one["revocation"] = next(({**each} for each in rules if each["name"] == one["name"]), None)
    click.echo(json.dumps(one, indent=1))


@ca.command()
@click.argument("name")
@click.argument("proof", type=_FILE, required=False)
@click.option("--signing-key", type=_FILE, help="The authority's private key (EC, PEM): prove it here and now.")
@click.option("--set-verified", is_flag=True, help="Vouch for it, without proving that its key is yours.")
@_hub_options
def verify(
    *, name: str, proof: Path | None, signing_key: Path | None, set_verified: bool, data: Path, login: str | None,
    ca: Path | None,
) -> None:  # fmt: skip
    """Prove that the authority's key is yours, so that its certificates are trusted.

    Without PROOF it prints a code: issue a certificate with CN=<code> with the authority's key, and come again with
    its file as PROOF.
    """
    hub = _client(data, login, ca)
    if set_verified:
        present = hub.call("GET", _path(hub, name))["properties"]["certificate"]
        _tell(_put(hub, name, base64.b64decode(present), verified=True))
    elif proof is not None:
        _tell(_verify(hub, name, proof.read_bytes()))
    elif signing_key is not None:
        _tell(_prove(hub, name, signing_key.read_bytes()))
    else:
        code = _code(hub, name)
        click.echo(f"{code}\n{_HOW_TO_PROVE.format(code=code, name=name)}")


@ca.command()
@click.argument("name")
@_hub_options
def delete(*, name: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Trust the authority no more; devices with its certificates are disconnected."""
    hub = _client(data, login, ca)
    hub.call("GET", _path(hub, name))
    hub.call("DELETE", _path(hub, name), if_match="*")


@ca.command()
@click.argument("name")
@click.argument("file", type=_FILE)
@_hub_options
def crl(*, name: str, file: Path, data: Path, login: str | None, ca: Path | None) -> None:
    """Load the revocation list in FILE (PEM or DER) of the authority, or of one below it; devices are disconnected."""
    _load_list(_client(data, login, ca), name, file.read_bytes())


@ca.command()
@click.argument("name")
@click.option("--list-url", default="", help="Where its revocation list is.")
@click.option("--responder-url", default="", help="Its OCSP responder, asked when a device connects and after.")
@click.option("--refresh", type=click.IntRange(LEAST_REVOCATION_REFRESH.open, MOST_REVOCATION_REFRESH.open),
              default=REVOCATION_REFRESH.open, show_default=True,
              help="Seconds from one look at these places to the next.")  # fmt: skip
@click.option("--fail-closed/--fail-open", default=False, show_default=True,
              help="Without current news of a certificate let no device in, or let it in.")  # fmt: skip
@_hub_options
def revocation(
    *, name: str, list_url: str, responder_url: str, refresh: int, fail_closed: bool, data: Path, login: str | None,
    ca: Path | None,
) -> None:  # fmt: skip
    """Say where the authority tells what it has revoked; what is not given is taken away."""
    places = {"listUrl": list_url, "responderUrl": responder_url}
    rules = {**places, "refreshSeconds": refresh, "failClosed": fail_closed}
    made = _client(data, login, ca).call("PUT", f"/$muster/authorities/{quote(name, safe='')}/rules", rules)
    click.echo(json.dumps(made, indent=1))


# --- an authority of our own


@ca.command()
@_hub_options
def init(*, data: Path, login: str | None, ca: Path | None) -> None:
    """Make an authority for devices in the data directory, a root and an issuing one, and have the hub trust it."""
    from muster.issuing.devices import make_device_authorities  # noqa: PLC0415

    hub, files = _client(data, login, ca), DeviceAuthorityFiles(data)
    ambient = _Ambient()
    made = make_device_authorities(ambient)
    files.write(made)
    for stem, one in zip((ROOT, ISSUING), made, strict=True):
        _register(hub, name_at_hub(stem), one, ambient)
    click.echo(
        f"Keys and certificates are in {files.path}. Move root.key to a safe place: it is needed only to make another\n"
        "issuing authority. Then, for each device:\n"
        "  muster device add my-device --auth x509-ca\n"
        "  muster ca issue my-device"
    )


@ca.command()
@click.option("--root-key", type=_FILE, help="The root's private key.  [default: device-ca/root.key, if it is there]")
@_hub_options
def rotate(*, root_key: Path | None, data: Path, login: str | None, ca: Path | None) -> None:
    """Make another issuing authority below the root of `muster ca init`; `muster ca issue` uses it from now on.

    Certificates of the one before stay good: renew them device by device, then `muster ca delete` it.
    """
    from muster.issuing.devices import make_issuing_authority  # noqa: PLC0415

    hub, files, ambient = _client(data, login, ca), DeviceAuthorityFiles(data), _Ambient()
    files.stems()
    made = make_issuing_authority(files.credentials(ROOT, root_key), ambient)
    _register(hub, name_at_hub(files.add_issuing(made)), made, ambient)


@ca.command()
@click.argument("identity", metavar="DEVICE[/MODULE]")
@click.option("--days", type=click.IntRange(1), default=365, show_default=True, help="How long it is good.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=".", show_default=True,
              help="Where certificate and key are written.")  # fmt: skip
@click.option("--renew", is_flag=True, help="Put them in the place of those that are there, which get .old behind.")
@data_option
def issue(*, identity: str, days: int, out: Path, renew: bool, data: Path) -> None:
    """Make a key and a certificate for a device or a module, with the authority of `muster ca init`.

    The old ones of a device that was renewed stay good until they end, or are revoked: muster ca revoke FILE.pem.old
    """
    from muster.identity.ids import check_key  # noqa: PLC0415
    from muster.issuing.devices import issue_device_certificate  # noqa: PLC0415

    device_id, slash, module_id = identity.partition("/")
    key = IdentityKey(device_id, module_id if slash else None)
    check_key(key)
    made = issue_device_certificate(DeviceAuthorityFiles(data).issuing(), key, days, _Ambient())
    out.mkdir(parents=True, exist_ok=True)
    name = quote(identity, safe="")
    for path, content in ((out / f"{name}.key", made.key), (out / f"{name}.pem", made.certificate)):
        if renew and path.exists():
            path.replace(path.with_name(f"{path.name}.old"))
        write_new(path, content)
    click.echo(f"{out / f'{name}.pem'}\n{out / f'{name}.key'}")


@ca.command()
@click.argument("file", type=_FILE)
@_hub_options
def revoke(*, file: Path, data: Path, login: str | None, ca: Path | None) -> None:
    """Revoke the certificate in FILE, issued by the authority of `muster ca init`; its device is disconnected."""
    from muster.identity.certificates import read_certificate, read_upload  # noqa: PLC0415
    from muster.identity.revocation import read_list  # noqa: PLC0415
    from muster.issuing.devices import revoke as make_list  # noqa: PLC0415
    from muster.node.directory import write_private  # noqa: PLC0415

    hub, files = _client(data, login, ca), DeviceAuthorityFiles(data)
    gone = read_upload(file.read_bytes())
    for stem in files.stems():
        issuing, list_file = files.credentials(stem), files.list_file(stem)
        if gone.signed_by(read_upload(issuing.certificate)):
            break
    else:
        raise HubError(INVALID_OPERATION, f"{file} holds no certificate of the authority in {files.path}.")
    before = read_list(list_file.read_bytes()).serials if list_file.exists() else frozenset()
    serials = before | {read_certificate(gone.der).serial}
    write_private(list_file, make_list(issuing, serials, len(serials), _Ambient()))
    _load_list(hub, name_at_hub(stem), list_file.read_bytes())


class _Ambient(SystemAmbient):
    """Time and randomness outside of a loop."""

    def __init__(self) -> None:
        pass


def _client(data: Path, login: str | None, ca: Path | None) -> HubClient:
    target = running(data, login, ca)
    if isinstance(target, HubClient):
        return target
    target.release()
    raise HubError(INVALID_OPERATION, f"no hub runs in {data}; start it with: muster serve --data {data}")


def _path(hub: HubClient, name: str = "", action: str = "") -> str:
    """Where the certificates are in the resource manager's shape; subscription and group are of no account."""
    path = (
        f"/subscriptions/-/resourceGroups/-/providers/Microsoft.Devices/IotHubs/{hub_name(hub.host)}/certificates"
        f"{'/' if name else ''}{quote(name, safe='')}"
    )
    return f"{path}/{action}" if action else path


def _put(hub: HubClient, name: str, content: bytes, *, verified: bool | None) -> dict[str, Any]:
    from muster.identity.certificates import CertificateError, read_upload  # noqa: PLC0415

    try:
        der = read_upload(content).der
    except CertificateError as error:
        raise HubError(INVALID_OPERATION, f"The certificate cannot be taken: {error}.") from error
    properties: dict[str, Any] = {"certificate": base64.b64encode(der).decode()}
    if verified is not None:
        properties["isVerified"] = verified
    made: dict[str, Any] = hub.call("PUT", _path(hub, name), {"properties": properties}, if_match="*")
    return made


def _code(hub: HubClient, name: str) -> str:
    answer = hub.call("POST", _path(hub, name, "generateVerificationCode"), if_match="*")
    return str(answer["properties"]["verificationCode"])


def _verify(hub: HubClient, name: str, proof: bytes) -> dict[str, Any]:
    body = {"certificate": base64.b64encode(proof).decode()}
    made: dict[str, Any] = hub.call("POST", _path(hub, name, "verify"), body, if_match="*")
    return made


def _prove(hub: HubClient, name: str, key: bytes) -> dict[str, Any]:
    from muster.issuing.devices import prove_possession  # noqa: PLC0415
    from muster.issuing.making import Credentials, pem_of  # noqa: PLC0415

    code = _code(hub, name)
    present = base64.b64decode(hub.call("GET", _path(hub, name))["properties"]["certificate"])
    return _verify(hub, name, prove_possession(Credentials(pem_of(present), key), code, _Ambient()))


def _register(hub: HubClient, name: str, made: Credentials, ambient: Ambient) -> None:
    """Have the hub trust an authority whose key is at hand."""
    from muster.issuing.devices import prove_possession  # noqa: PLC0415

    _put(hub, name, made.certificate, verified=None)
    _tell(_verify(hub, name, prove_possession(made, _code(hub, name), ambient)))


def _load_list(hub: HubClient, name: str, content: bytes) -> None:
    body = {"list": base64.b64encode(content).decode()}
    made = hub.call("PUT", f"/$muster/authorities/{quote(name, safe='')}/list", body)
    click.echo(f"{made['issuer']}: {made['revoked']} revoked, next list by {made['nextUpdate'] or 'an unknown time'}")


def _tell(one: dict[str, Any]) -> None:
    properties = one["properties"]
    state = "verified" if properties["isVerified"] else "not verified"
    click.echo(f"{one['name']}  {state}  {properties['subject']}  until {properties['expiry']}")
