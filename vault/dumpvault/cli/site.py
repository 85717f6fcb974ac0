"""``dumpvault init``, and the options that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from dumpvault.cli import output
from dumpvault.errors import NoKey
from dumpvault.flows.key_access import read_secret, unlock_key
from dumpvault.flows.site import Site, init_site
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.stages.secrecy import keep_out_of_swap

__all__ = [
    "Moment",
    "at_option",
    "init_command",
    "load_site",
    "load_trust",
    "passphrase_option",
    "policy_option",
    "read_passphrase",
    "retrieval_options",
    "store_option",
    "unlocker",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def load_site() -> Site:
    return Site.load(os.environ)


def load_trust(site: Site, path: str | None, at: datetime | None = None) -> AllowedSigners:
    """Whom to trust, judged at the moment ``at`` if it is not now; lines that give nothing are told of."""
    trust = site.trust.allowed_signers(path)
    if at:
        trust.at = at
        output.say(
            f"note: keys are judged as of {at:%Y-%m-%d %H:%M:%SZ}, as you chose; that they were used then is not proved"
        )
    for problem in trust.problems:
        output.say(f"warning: {problem}")
    return trust


def store_option(command: _Command) -> _Command:
    option = click.option("--store", metavar="URL", help="The store: a directory. [default: the site's]")
    return option(command)


def policy_option(command: _Command) -> _Command:
    return click.option(
        "--policy", metavar="NAME", help="The policy that the vault must obey. [default: the site's for its host]"
    )(command)


def retrieval_options(command: _Command) -> _Command:
    """``--policy``, and what a policy may ask of whoever opens: ``--reason`` and ``--ticket``."""
    command = click.option("--ticket", default="", metavar="ID", help="Where this is recorded, if the policy asks.")(
        command
    )
    command = click.option("--reason", default="", metavar="TEXT", help="Why it is opened, if the policy asks.")(
        command
    )
    return policy_option(command)


def passphrase_option(command: _Command) -> _Command:
    return click.option(
        "--passphrase-file",
        metavar="FILE",
        help="Read the passphrase, or a token's PIN, from FILE (its first line) instead of asking.",
    )(command)


class Moment(click.ParamType[datetime]):
    """A moment: ``2026-11-24``, ``2026-11-24T14:30:00Z``, or as OpenSSH writes it, ``20261124143000Z``. In UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y%m%d", "%Y%m%dZ", "%Y%m%d%H%MZ", "%Y%m%d%H%M%SZ"):
            with suppress(ValueError):
                return datetime.strptime(value, form).replace(tzinfo=UTC)
        return self.fail(f"{value!r} is no moment; write 2026-11-24 or 2026-11-24T14:30:00Z, in UTC", param, ctx)


def at_option(command: _Command) -> _Command:
    return click.option(
        "--at",
        type=Moment(),
        metavar="TIME",
        help="Judge the signers' validity as of TIME. Revoked keys stay revoked. [default: now]",
    )(command)


def read_passphrase(path: str | None, prompt: str, *, confirm: bool = False) -> bytes:
    """From ``path``, else asked for on a terminal. Raises ``NoKey`` where there is neither."""
    if path:
        return read_secret(path)
    if not sys.stdin.isatty():
        raise NoKey(f"{prompt}: no passphrase, and no terminal to ask on", "Use --passphrase-file FILE.")
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)).encode()


def unlocker(path: str | None) -> Callable[[LockedKey], PrivateKey]:
    """How keys that are not at hand are reached, with the passphrase or PIN in ``path``, or by asking."""

    def unlock(key: LockedKey) -> PrivateKey:
        keep_out_of_swap()
        return unlock_key(load_site(), key, path, lambda prompt: read_passphrase(None, prompt))

    return unlock


@click.command(
    "init",
    epilog=output.epilog("dumpvault init", "DUMPVAULT_HOME=$PWD/site dumpvault init", codes=(0, 2, 13)),
)
@click.option("--actor", metavar="NAME", help="What to call the key of this home's entries. [default: USER_HOST]")
@output.json_option
def init_command(actor: str | None, as_json: bool) -> None:
    """Make a site: configuration, keys directory, store and its ledger. What exists is left alone.

    The home is /etc/dumpvault and /var/lib/dumpvault for root, the XDG directories for a user, or all of it under
    DUMPVAULT_HOME. It gets a key that signs what is done here, as entries of stores' ledgers, and the store's own ledger
    a key for its checkpoints. Neither opens anything, and neither is locked.
    """
    from dumpvault.flows.founding import found_ledger, make_actor

    site = load_site()
    made = [*init_site(site), *make_actor(site, actor), *found_ledger(site)]
    if as_json:
        output.print_json({"home": site.home, "made": made, "store": site.store_url})
        return
    output.say(f"site {site.home}, store {site.store_url}" + ("" if made else " (already there)"))
