"""``dumpvault init``, and the options that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dumpvault.cli import output
from dumpvault.errors import BadInput, NoKey
from dumpvault.flows.site import Site, init_site
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.private_key import LockedKey, PrivateKey

__all__ = [
    "approvals_option",
    "init_command",
    "load_approvals",
    "load_site",
    "load_trust",
    "passphrase_option",
    "read_passphrase",
    "read_small",
    "store_option",
    "unlocker",
]

if TYPE_CHECKING:
    from dumpvault.flows.combining import Approvals

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


def passphrase_option(command: _Command) -> _Command:
    return click.option(
        "--passphrase-file", metavar="FILE", help="Read the passphrase from FILE (its first line) instead of asking."
    )(command)


def approvals_option(command: _Command) -> _Command:
    return click.option(
        "--approvals",
        multiple=True,
        metavar="FILE",
        help="A custodian's approval, under dual control. May be repeated.",
    )(command)


def load_approvals(site: Site, paths: tuple[str, ...]) -> Approvals | None:
    """The files that ``--approvals`` names, beside the requests that they may answer."""
    if not paths:
        return None
    from dumpvault.flows.combining import Approvals

    return Approvals([(path, read_small(path, "an approval")) for path in paths], site.onetime)


def read_small(path: str, what: str) -> bytes:
    """A file of one signed envelope; ``-`` is standard input. Raises ``BadInput``."""
    try:
        with click.open_file(path, "rb") as file:
            data: bytes = file.read((1 << 20) + 1)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", f"It should hold {what}.") from None
    if len(data) > 1 << 20:
        raise BadInput(f"{path}: too large for {what}", "At most 1 MiB.")
    return data


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
