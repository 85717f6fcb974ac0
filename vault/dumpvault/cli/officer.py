"""What the commands of officers share (grant, rewrap, reshare, shred): their options, and the officer at work by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from dumpvault.cli import output
from dumpvault.cli.recording import load_recording
from dumpvault.cli.site import load_site, load_trust, passphrase_option, store_option, unlocker
from dumpvault.flows.roles import signer_with_role
from dumpvault.flows.site import Site
from dumpvault.flows.unlocking import Unlock
from dumpvault.flows.verified import Report
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.policy_facts import Retrieval
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.sshkey import SigningKey
from dumpvault.model import Store

__all__ = ["Officer", "load_officer", "officer_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def officer_options(command: _Command) -> _Command:
    """Where, with which key of the officer, whom to trust, and ``--json``."""
    for option in reversed(
        (
            store_option,
            click.option("--signer", metavar="NAME|FILE", help="The officer's key. [default: the home's only one]"),
            passphrase_option,
            click.option("--allowed-signers", metavar="FILE", help="Whom to trust. [default: the site's]"),
            output.json_option,
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Officer:
    """An officer in a home, at work on the vaults of a store."""

    site: Site
    store: Store
    trust: AllowedSigners
    unlock: Unlock
    wanted: str | None

    def signer(self, statement: str) -> Callable[[str], SigningKey]:
        """Gives the officer's key for a host, to sign ``statement``. Raises ``NoKey``."""
        return lambda host: signer_with_role(self.site, self.trust, statement, host, self.wanted, self.unlock)

    def keys(self, names: Sequence[str]) -> list[PrivateKey | LockedKey]:
        """Those that were named, or all of the home."""
        trust = self.site.trust
        return [trust.private_key(name) for name in names] if names else trust.private_keys()

    def record(self, event: str, reason: str, ticket: str) -> Callable[[Report], None]:
        """What a flow calls before it decrypts or changes anything: the ledger's entry. Raises ``Forged``."""
        recording = load_recording(self.site, self.store, self.trust)

        def record(report: Report) -> None:
            recording.record(report, event, "officer", Retrieval(reason, ticket))

        return record


def load_officer(
    store: str | None, signer: str | None, passphrase_file: str | None, allowed_signers: str | None
) -> Officer:
    site = load_site()
    trust = load_trust(site, allowed_signers)
    return Officer(site, site.store(store), trust, unlocker(passphrase_file), signer)
