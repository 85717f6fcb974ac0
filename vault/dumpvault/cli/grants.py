"""``--grant``, for the commands that open by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dumpvault.errors import BadInput
from dumpvault.formats import dsse
from dumpvault.formats.event import LIMIT

__all__ = ["grant_option", "load_grant"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def grant_option(command: _Command) -> _Command:
    return click.option("--grant", metavar="FILE", help="Open what this grant is for, and nothing else.")(command)


def load_grant(path: str | None) -> dsse.Envelope | None:
    """The file that ``--grant`` names, not yet believed. Raises ``BadInput`` or ``Forged``."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", "It should hold a grant.") from None
    if not data.startswith(b"{"):
        raise BadInput(f"{path} is no grant", "Name the file that 'dumpvault grant' made.")
    return dsse.parse(data, path, LIMIT)
