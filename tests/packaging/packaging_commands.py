"""The command lines and environments of packaging/, fed to the program's own parser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import click

from muster.cli import serve as serve_module
from muster.cli.main import main
from muster.node.settings import Settings

PACKAGING = Path(__file__).parents[2] / "packaging"


def settings_from(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """What ``muster`` makes of a command line that ends in ``serve`` and its options.

    Raises ``click.UsageError`` for a flag or value that it does not take.
    """
    taken: list[dict[str, Any]] = []
    command = main.get_command(click.Context(main), "serve")
    assert command is not None
    with (
        mock.patch.dict("os.environ", environment),
        mock.patch.object(command, "callback", lambda **all_: taken.append(all_)),
    ):
        main.main(list(arguments), standalone_mode=False)
    return serve_module._settings(taken[0])


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """``MUSTER_`` variables that are no flag of ``muster serve``: they would be passed over in silence."""
    command = main.get_command(click.Context(main), "serve")
    assert command is not None
    known = {str(option.envvar) for option in command.params}
    return sorted(name for name in environment if name.startswith("MUSTER_") and name not in known)
