"""``dumpvault grant``."""

from __future__ import annotations

from typing import Literal

import click

from dumpvault.cli import output
from dumpvault.cli.approvals import approvals_option, load_approvals
from dumpvault.cli.officer import load_officer, officer_options
from dumpvault.cli.recording import why_options
from dumpvault.errors import Usage
from dumpvault.flows.granting import GrantRequest, grant
from dumpvault.flows.listing import find_vault

__all__ = ["grant_command"]


@click.command(
    "grant",
    epilog=output.epilog(
        "dumpvault grant 3f9c --regions 0-3,17 --to vendor.pub",
        "dumpvault grant latest --dmesg --to vendor.pub -o grant.json",
        codes=(0, 1, 2, 3, 10, 12, 13, 130),
    ),
)
@click.argument("vault", metavar="ID")
@click.option("--regions", metavar="LIST", help="These: 0-3,17; or 2/0-3 for those of attempt 2.")
@click.option("--dmesg", is_flag=True, help="What reading the kernel log takes.")
@click.option("--notes", is_flag=True, help="ELF headers and notes: registers, VMCOREINFO.")
@click.option("--to", required=True, metavar="NAME|FILE", help="The public key of who shall open them.")
@click.option("-o", "--output", "path", metavar="FILE", help="The grant's file. [default: a name of its own]")
@click.option(
    "--key", "keys", multiple=True, metavar="NAME|FILE", help="Private key that opens it. [default: any of the site's]"
)
@approvals_option
@why_options
@officer_options
def grant_command(
    vault: str,
    regions: str | None,
    dmesg: bool,
    notes: bool,
    to: str,
    path: str | None,
    keys: tuple[str, ...],
    approvals: tuple[str, ...],
    reason: str,
    ticket: str,
    store: str | None,
    signer: str | None,
    passphrase_file: str | None,
    allowed_signers: str | None,
    as_json: bool,
) -> None:
    """Give somebody the keys of some regions: a file that opens those, with their private key, and nothing else.

    It takes a key that opens the vault, or custodians' approvals of a request --for grant, and an officer's key; an event
    of the vault records it. The receiver needs the file, the vault's signed objects and those regions, and
    allowed_signers. Nothing takes a grant back.
    """
    if (regions is not None) + dmesg + notes != 1:
        raise Usage("one of --regions, --dmesg and --notes says what is granted", "Give exactly one.")
    officer = load_officer(store, signer, passphrase_file, allowed_signers)
    what: Literal["regions", "dmesg", "notes"] = "dmesg" if dmesg else "notes" if notes else "regions"
    agreed = load_approvals(officer.site, approvals, keys, "grant")
    receiver = officer.site.trust.recipient(to)
    found = find_vault(officer.store, vault)
    request = GrantRequest(found, what, regions or "", receiver, officer.keys(keys), agreed)
    write = output.new_file(path)
    made, data = grant(
        officer.store, request, officer.trust, officer.signer("grant"), officer.unlock,
        officer.record("granted", reason, ticket),
    )  # fmt: skip
    name = write(f"grant-{request.vault[:12]}-{made.event}-{made.recipient.name}.json", data)
    output.say(f"{name}: {made.count} regions of {request.vault} for {made.recipient.name} (event {made.event})")
    if as_json:
        output.print_json(
            {
                "event": made.event,
                "file": name,
                "recipient": {
                    "name": made.recipient.name,
                    "sha256": made.recipient.digest,
                    "suite": made.recipient.suite,
                },
                "regions": [run.encode() for run in made.regions],
                "vault": request.vault,
            }
        )
    else:
        click.echo(name)
