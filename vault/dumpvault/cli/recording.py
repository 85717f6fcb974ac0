"""What the commands that are recorded in the store's ledger share: the record itself, and the options that say why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dumpvault.cli import output
from dumpvault.cli.site import unlocker
from dumpvault.errors import Forged, VaultError
from dumpvault.flows.recording import Recording
from dumpvault.flows.site import Site
from dumpvault.flows.verified import Report
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.policy_facts import Retrieval
from dumpvault.model import Store

__all__ = ["load_recording", "officers_record", "why_options"]

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


def officers_record(recording: Recording, event: str, reason: str, ticket: str) -> Callable[[Report], None]:
    """What an officer's flow calls before it decrypts or changes anything."""

    def record(report: Report) -> None:
        recording.record(report, event, "officer", Retrieval(reason, ticket))

    return record
