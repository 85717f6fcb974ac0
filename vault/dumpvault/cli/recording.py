"""What the commands share that are recorded in the store's ledger, or are about it: the ledger itself, and options."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dumpvault.cli import output
from dumpvault.cli.site import load_site, load_trust, store_option, unlocker
from dumpvault.errors import Forged, Incomplete, VaultError
from dumpvault.flows.recording import Recording
from dumpvault.flows.site import Site
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.model import Store

if TYPE_CHECKING:
    from dumpvault.flows.custody import Custody

__all__ = ["custody_options", "load_custody", "load_recording", "why_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def why_options(command: _Command) -> _Command:
    """``--reason`` and ``--ticket``, for what is recorded and no policy asks a reason for."""
    command = click.option("--ticket", default="", metavar="ID", help="Where this is recorded, for the ledger.")(
        command
    )
    return click.option("--reason", default="", metavar="TEXT", help="Why, for the ledger.")(command)


def load_recording(site: Site, store: Store, trust: AllowedSigners) -> Recording:
    """The ledger of ``store``, for this home. Raises ``Forged`` for one that is gone, or another one."""
    from dumpvault.flows.custody import Custody

    try:
        return Recording(site, store, output.say, Custody.of(site, store, trust, unlocker(None)))
    except Forged:
        raise
    except VaultError as error:
        return Recording(site, store, output.say, failure=error)


def custody_options(command: _Command) -> _Command:
    """``--store``, ``--allowed-signers``, ``--json``."""
    command = output.json_option(command)
    command = click.option(
        "--allowed-signers", metavar="FILE", help="Whom to trust, in OpenSSH's format. [default: the site's]"
    )(command)
    return store_option(command)


def load_custody(store: str | None, allowed_signers: str | None, at: datetime | None = None) -> Custody:
    """The ledger of the store. Raises ``Incomplete`` where it has none."""
    from dumpvault.flows.custody import Custody

    site = load_site()
    trust = load_trust(site, allowed_signers, at)
    place = site.store(store)
    found = Custody.of(site, place, trust, unlocker(None))
    if found is None:
        raise Incomplete(
            f"{place.url}: the store has no ledger", "'dumpvault init' begins one in the site's own store."
        )
    return found
