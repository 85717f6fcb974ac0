"""``dumpvault rewrap``."""

from __future__ import annotations

import click

from dumpvault.cli import output
from dumpvault.cli.recording import load_recording, officers_record, why_options
from dumpvault.cli.site import load_site, load_trust, passphrase_option, store_option, unlocker
from dumpvault.errors import Usage
from dumpvault.flows.listing import find_vault
from dumpvault.flows.rewrapping import RewrapRequest, rewrap
from dumpvault.flows.roles import signer_with_role

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
@store_option
@click.option("--signer", metavar="NAME|FILE", help="The officer's key. [default: the home's only one]")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="NAME|FILE",
    help="Private key that opens it now. [default: any of the site's]",
)
@passphrase_option
@why_options
@click.option("--allowed-signers", metavar="FILE", help="Whom to trust. [default: the site's]")
@output.json_option
def rewrap_command(
    vault: str,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    store: str | None,
    signer: str | None,
    keys: tuple[str, ...],
    passphrase_file: str | None,
    reason: str,
    ticket: str,
    allowed_signers: str | None,
    as_json: bool,
) -> None:
    """Change who can open a vault. What is sealed stays as it is; a removal makes new vault keys.

    It takes a key that opens the vault, and an officer's. Whoever is removed keeps what they have opened, and copies of
    the old key objects open what they opened. What was interrupted is finished by running it again.
    """
    if not add and not remove:
        raise Usage("neither --add nor --remove", "Say who shall, or shall not, open the vault.")
    site = load_site()
    trust = load_trust(site, allowed_signers)
    place = site.store(store)
    unlock = unlocker(passphrase_file)
    request = RewrapRequest(
        find_vault(place, vault),
        [site.trust.private_key(name) for name in keys] if keys else site.trust.private_keys(),
        [site.trust.recipient(name) for name in add],
        remove,
        list(site.trust.recipients()),
    )
    done = rewrap(
        place, request, trust, lambda host: signer_with_role(site, trust, "rewrap", host, signer, unlock), unlock,
        officers_record(load_recording(site, place, trust), "rewrapped", reason, ticket),
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
