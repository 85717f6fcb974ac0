"""``dumpvault init``, and the options that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dumpvault.cli import output
from dumpvault.errors import NoKey
from dumpvault.flows.site import Site, init_site
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.private_key import LockedKey, PrivateKey

__all__ = [
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


def load_trust(site: Site, path: str | None) -> AllowedSigners:
    """Whom to trust; lines that give nothing are told of."""
    trust = site.trust.allowed_signers(path)
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
        "--passphrase-file", metavar="FILE", help="Read the passphrase from FILE (its first line) instead of asking."
    )(command)


def read_passphrase(path: str | None, prompt: str, *, confirm: bool = False) -> bytes:
    """From ``path``, else asked for on a terminal. Raises ``NoKey`` where there is neither."""
    if path:
        try:
            with open(path, "rb") as file:
                line = file.readline(65536).rstrip(b"\r\n")
        except OSError as error:
            raise NoKey(f"{path}: {error.strerror}", "The passphrase is needed to go on.") from None
        if not line:
            raise NoKey(f"{path}: its first line is empty", "A passphrase must stand there.")
        return line
    if not sys.stdin.isatty():
        raise NoKey(f"{prompt}: no passphrase, and no terminal to ask on", "Use --passphrase-file FILE.")
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)).encode()


def unlocker(path: str | None) -> Callable[[LockedKey], PrivateKey]:
    """How locked keys are opened: with the passphrase in ``path``, or by asking."""
    return lambda key: key.unlock(read_passphrase(path, f"Passphrase of {key.name}"))


@click.command(
    "init",
    epilog=output.epilog("dumpvault init", "DUMPVAULT_HOME=$PWD/site dumpvault init", codes=(0, 2, 13)),
)
@output.json_option
def init_command(as_json: bool) -> None:
    """Make a site: configuration, keys directory and store. What exists is left alone.

    The home is /etc/dumpvault and /var/lib/dumpvault for root, the XDG directories for a user, or all of it under
    DUMPVAULT_HOME.
    """
    site = load_site()
    made = init_site(site)
    if as_json:
        output.print_json({"home": site.home, "made": made, "store": site.store_url})
        return
    output.say(f"site {site.home}, store {site.store_url}" + ("" if made else " (already there)"))
