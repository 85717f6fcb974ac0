"""``dumpvault shred``."""

from __future__ import annotations

import os

import click

from dumpvault.cli import output
from dumpvault.cli.officer import load_officer, officer_options
from dumpvault.cli.site import unlocker
from dumpvault.errors import BadInput, NoKey
from dumpvault.flows.judging import Judge
from dumpvault.flows.listing import find_vault
from dumpvault.flows.shredding import ShredRequest, shred
from dumpvault.formats.private_key import LockedKey, PrivateKey

__all__ = ["shred_command"]


@click.command(
    "shred",
    epilog=output.epilog(
        "dumpvault shred 3f9c --reason 'retention ended' --yes",
        "dumpvault shred 3f9c --regions 0-3,17 --reason 'customer data' --signer officer --yes -o certificate.json",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 130),
    ),
)
@click.argument("vault", metavar="ID")
@click.option("--regions", metavar="LIST", help="Only these: 0-3,17; or 2/0-3 for those of attempt 2. [default: all]")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it stands in the event and in the certificate.")
@click.option("--ticket", default="", metavar="ID", help="Where this is recorded, for the ledger.")
@click.option("--yes", is_flag=True, help="Destroy without asking, for scripts.")
@click.option("-o", "--output", "path", metavar="FILE", help="The certificate; FILE.sig stands beside it.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="NAME|FILE",
    help="Private key to try afterwards. [default: all of the site's]",
)
@officer_options
def shred_command(
    vault: str,
    regions: str | None,
    reason: str,
    ticket: str,
    yes: bool,
    path: str | None,
    keys: tuple[str, ...],
    store: str | None,
    signer: str | None,
    passphrase_file: str | None,
    allowed_signers: str | None,
    as_json: bool,
) -> None:
    """Destroy the keys of a vault, or of some of its regions, for ever; prints the file of the certificate.

    A signed event goes before the deletions. Afterwards every key held here is tried on all that is left. Nothing is
    promised about copies of the key objects, snapshots, flash media, and grants already given. What was interrupted is
    finished by running it again.
    """
    officer = load_officer(store, signer, passphrase_file, allowed_signers)
    found = find_vault(officer.store, vault)
    usable = _usable(officer.keys(keys), passphrase_file)
    name = path or f"shred-{found[:12]}-{os.urandom(4).hex()}.json"
    write, write_signature = output.new_file(name), output.new_file(f"{name}.sig")
    if not yes:
        what = f"regions {regions}" if regions else "all regions"
        output.confirm(
            f"Destroy the keys of {what} of vault {found}? Nothing brings them back", "shred", "destroys them"
        )
    request = ShredRequest(found, regions, reason, usable, Judge(officer.site))
    done = shred(
        officer.store, request, officer.trust, officer.signer("shred"), officer.record("shredded", reason, ticket)
    )
    write(name, done.payload)
    write_signature(f"{name}.sig", done.signature)
    certificate = done.certificate
    count = sum(run.last - run.first + 1 for run in certificate.regions)
    output.say(
        f"{found}: {count} regions, {output.size(certificate.length)} of memory "
        f"{'were shredded already' if done.already else 'shredded'} (event {done.event}); "
        f"{len(certificate.tried)} keys held here were tried, none opens them"
    )
    if as_json:
        output.print_json(
            {
                "already": done.already,
                "bytes": certificate.length,
                "certificate": name,
                "event": done.event,
                "regions": count,
                "signature": f"{name}.sig",
                "tried": list(certificate.tried),
                "vault": found,
            }
        )
    else:
        click.echo(name)


def _usable(held: list[PrivateKey | LockedKey], passphrase_file: str | None) -> list[PrivateKey]:
    """The recipient keys that can be tried; a locked one only with a passphrase from a file."""
    found = []
    for key in held:
        if key.purpose != "recipient":
            continue
        if isinstance(key, LockedKey):
            try:
                if passphrase_file is None:
                    raise NoKey(f"{key.name} is locked")
                key = unlocker(passphrase_file)(key)  # noqa: PLW2901
            except (NoKey, BadInput) as error:
                output.say(f"note: {error.message}; it is not tried")
                continue
        found.append(key)
    return found
