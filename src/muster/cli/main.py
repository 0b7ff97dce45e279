"""The command line: ``muster COMMAND``. Every flag is also ``MUSTER_<FLAG>`` and a key of ``muster.toml``.

Commands are imported when they are called for, so that each starts fast. Exit codes: 0 fine, 1 failure,
2 usage.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from muster.cli.words import words_of
from muster.core.errors import HubError

COMMANDS = {
    "serve": ("muster.cli.serve:serve", "Run the hub in the foreground."),
    "hub": ("muster.cli.hub:hub", "List, add and remove the hubs of a deployment."),
    "nodes": ("muster.cli.nodes:nodes", "List the nodes of a deployment, their leases and sessions."),
    "role": ("muster.cli.role:role", "Grant roles to callers with bearer tokens."),
    "env": ("muster.cli.env:env", "Print what clients need to reach the hub."),
    "ca": ("muster.cli.ca:ca", "Trust certificate authorities for devices, issue and revoke certificates."),
    "device": ("muster.cli.device:device", "Register devices and modules, show their connection strings."),
    "token": ("muster.cli.token:token", "Make a SAS token."),
    "why": ("muster.cli.why:why", "Say why somebody was refused."),
    "audit": ("muster.cli.audit:audit", "Show who changed what, export it, verify that the record is whole."),
    "doctor": ("muster.cli.doctor:doctor", "Find what works today and will hurt."),
    "provisioning": ("muster.cli.provisioning:provisioning", "Enroll devices that find their hub by themselves."),
    "import": ("muster.cli.import_:import_", "Load identities and twins in Azure's export format."),
    "export": ("muster.cli.export:export", "Write identities and twins in Azure's export format."),
    "monitor": ("muster.cli.monitor:monitor", "Watch telemetry arrive."),
    "methods": ("muster.cli.methods:methods", "List the direct methods that were called."),
    "query": ("muster.cli.query:query", "Ask for twins in the device query language."),
    "limits": ("muster.cli.limits:limits", "List every limit and its value."),
}
"""Name to where the command is, and what the list of commands says of it."""

DEFAULT_CONFIG = Path("muster.toml")


class LazyGroup(click.Group):
    """A group that imports a command when it is called for, and has its flags read from elsewhere too."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        for option in options_of(command):
            option.envvar = f"MUSTER_{flag_of(option).upper()}"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """As ``click.Group``, without importing all of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """A refusal or a failing file ends in a line, not in a traceback."""
        try:
            return super().invoke(ctx)
        except HubError as error:
            raise click.ClickException(words_of(error.row.name, error.message)) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise click.ClickException(str(error)) from error


def options_of(command: click.Command) -> Iterator[click.Option]:
    """Every option of ``command`` and of its commands."""
    yield from (parameter for parameter in command.params if isinstance(parameter, click.Option))
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from options_of(child)


def flag_of(option: click.Option) -> str:
    """The long flag of an option as a key: ``mqtt_port`` for ``--mqtt-port``."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(importlib.metadata.version("muster"), message="muster %(version)s")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="MUSTER_CONFIG",
    help="TOML file whose keys are flags of the commands.  [default: ./muster.toml, if there is one]",
)
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """Muster: a self-hosted device hub.

    Every flag of a command is also an environment variable (MUSTER_MQTT_PORT for --mqtt-port) and a key of
    muster.toml (mqtt-port = 8884).
    """
    _escape_what_the_terminal_cannot_show()
    path = config or DEFAULT_CONFIG
    if config is None and not path.is_file():
        return
    if isinstance(ctx.command, LazyGroup) and ctx.invoked_subcommand is not None:
        ctx.default_map = defaults_from(path, ctx.command, ctx)


def _escape_what_the_terminal_cannot_show() -> None:
    """Have characters that the encoding of the output lacks come out as escapes, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.errors == "strict" or stream.encoding.lower() != "utf-8"):
            stream.reconfigure(errors="backslashreplace")


def defaults_from(path: Path, group: LazyGroup, ctx: click.Context) -> dict[str, Any]:
    """The values of ``path`` in the form of click's ``default_map``, for every command at once.

    Raises ``click.UsageError`` naming a file that is not TOML, or a key that is no flag of any command.
    """
    try:
        keys = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not a TOML file: {error}") from error
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from error
    values = {name.replace("-", "_"): value for name, value in keys.items()}
    commands = {name: command for name in COMMANDS if (command := group.get_command(ctx, name)) is not None}
    known = {flag_of(option) for command in commands.values() for option in options_of(command)}
    unknown = [name for name in keys if name.replace("-", "_") not in known]
    if unknown:
        raise click.UsageError(f"{path}: {unknown[0]!r} is not a flag of any command; see muster COMMAND --help")
    return {name: _defaults_for(command, values, path) for name, command in commands.items()}


def _defaults_for(command: click.Command, values: dict[str, Any], path: Path) -> dict[str, Any]:
    if isinstance(command, click.Group):
        return {name: _defaults_for(child, values, path) for name, child in command.commands.items()}
    found: dict[str, Any] = {}
    for option in options_of(command):
        flag = flag_of(option)
        if flag not in values or option.name is None:
            continue
        value = values[flag]
        from_tables = getattr(option.type, "from_tables", None)
        if isinstance(value, dict) and from_tables is not None:
            value = from_tables(value)
        if isinstance(value, dict) or (isinstance(value, list) and not option.multiple):
            raise click.UsageError(f"{path}: {flag.replace('_', '-')!r} takes one value")
        found[option.name] = [value] if option.multiple and not isinstance(value, list) else value
    return found
