"""``dumpvault shred``."""

from __future__ import annotations

import os

import click

from dumpvault.cli import output
from dumpvault.cli.recording import load_recording, officers_record
from dumpvault.cli.site import load_site, load_trust, passphrase_option, store_option, unlocker
from dumpvault.errors import BadInput, NoKey
from dumpvault.flows.judging import Judge
from dumpvault.flows.listing import find_vault
from dumpvault.flows.roles import signer_with_role
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
@store_option
@click.option("--signer", metavar="NAME|FILE", help="The officer's key. [default: the home's only one]")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="NAME|FILE",
    help="Private key to try afterwards. [default: all of the site's]",
)
@passphrase_option
@click.option("--allowed-signers", metavar="FILE", help="Whom to trust. [default: the site's]")
@output.json_option
def shred_command(
    vault: str,
    regions: str | None,
    reason: str,
    ticket: str,
    yes: bool,
    path: str | None,
    store: str | None,
    signer: str | None,
    keys: tuple[str, ...],
    passphrase_file: str | None,
    allowed_signers: str | None,
    as_json: bool,
) -> None:
    """Destroy the keys of a vault, or of some of its regions, for ever; prints the file of the certificate.

    A signed event goes before the deletions. Afterwards every key held here is tried on all that is left. Nothing is
    promised about copies of the key objects, snapshots, flash media, and grants already given. What was interrupted is
    finished by running it again.
    """
    site = load_site()
    trust = load_trust(site, allowed_signers)
    place = site.store(store)
    found = find_vault(place, vault)
    unlock = unlocker(passphrase_file)
    held = [site.trust.private_key(name) for name in keys] if keys else site.trust.private_keys()
    usable = _usable(held, passphrase_file)
    name = path or f"shred-{found[:12]}-{os.urandom(4).hex()}.json"
    write, write_signature = output.new_file(name), output.new_file(f"{name}.sig")
    if not yes:
        what = f"regions {regions}" if regions else "all regions"
        output.confirm(
            f"Destroy the keys of {what} of vault {found}? Nothing brings them back", "shred", "destroys them"
        )
    request = ShredRequest(found, regions, reason, usable, Judge(site))
    done = shred(
        place, request, trust, lambda host: signer_with_role(site, trust, "shred", host, signer, unlock),
        officers_record(load_recording(site, place, trust), "shredded", reason, ticket),
    )  # fmt: skip
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
