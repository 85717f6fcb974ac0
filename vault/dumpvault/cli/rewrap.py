"""``dumpvault rewrap``."""

from __future__ import annotations

import click

from dumpvault.cli import output
from dumpvault.cli.officer import load_officer, officer_options
from dumpvault.cli.recording import why_options
from dumpvault.errors import Usage
from dumpvault.flows.listing import find_vault
from dumpvault.flows.rewrapping import RewrapRequest, rewrap

__all__ = ["rewrap_command"]


@click.command(
    "rewrap",
    epilog=output.epilog(
        "dumpvault rewrap 3f9c --add bob",
        "dumpvault rewrap 3f9c --remove alice --signer officer",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 130),
    ),
)
@click.argument("vault", metavar="ID")
@click.option("--add", multiple=True, metavar="NAME|FILE", help="A recipient who shall open it too. May be repeated.")
@click.option("--remove", multiple=True, metavar="NAME", help="A recipient who shall not any more. May be repeated.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="NAME|FILE",
    help="Private key that opens it now. [default: any of the site's]",
)
@why_options
@officer_options
def rewrap_command(
    vault: str,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    keys: tuple[str, ...],
    reason: str,
    ticket: str,
    store: str | None,
    signer: str | None,
    passphrase_file: str | None,
    allowed_signers: str | None,
    as_json: bool,
) -> None:
    """Change who can open a vault. What is sealed stays as it is; a removal makes new vault keys.

    It takes a key that opens the vault, and an officer's. Whoever is removed keeps what they have opened, and copies of
    the old key objects open what they opened. What was interrupted is finished by running it again.
    """
    if not add and not remove:
        raise Usage("neither --add nor --remove", "Say who shall, or shall not, open the vault.")
    officer = load_officer(store, signer, passphrase_file, allowed_signers)
    recipients = officer.site.trust
    request = RewrapRequest(
        find_vault(officer.store, vault),
        officer.keys(keys),
        [recipients.recipient(name) for name in add],
        remove,
        list(recipients.recipients()),
    )
    done = rewrap(
        officer.store, request, officer.trust, officer.signer("rewrap"), officer.unlock,
        officer.record("rewrapped", reason, ticket),
    )  # fmt: skip
    who = ", ".join(f"{r.name} ({r.suite})" for r in done.recipients)
    if done.event is None:
        output.say(f"{request.vault}: is sealed to {who} already")
    else:
        output.say(
            f"{request.vault}: sealed to {who}{', with new vault keys' if done.renewed else ''} (event {done.event})"
        )
    if as_json:
        output.print_json(
            {
                "deleted": list(done.deleted),
                "event": done.event,
                "recipients": [{"name": r.name, "suite": r.suite} for r in done.recipients],
                "renewed": done.renewed,
                "vault": request.vault,
            }
        )
