"""``dumpvault custody prove``, ``check`` and ``witness``: what is given to others, and what is done with it there."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from dumpvault.cli import output
from dumpvault.cli.site import at_option, load_site, load_trust, store_option
from dumpvault.errors import BadInput

__all__ = ["check_command", "prove_command", "witness_command"]

_signers = click.option(
    "--allowed-signers", metavar="FILE", help="Whom to trust, in OpenSSH's format. [default: the site's]"
)


@click.command(
    "prove",
    epilog=output.epilog(
        "dumpvault custody prove 3f9c",
        "dumpvault custody prove 3f9c --entry 17 -o opened.tlog-proof",
        codes=(0, 1, 2, 3, 10, 12, 13),
    ),
)
@click.argument("vault", metavar="ID")
@click.option("--entry", type=click.IntRange(0), metavar="N", help="Which entry. [default: the vault's first]")
@click.option("-o", "--output", "path", metavar="FILE", help="Where to write. [default: a name of its own]")
@store_option
@_signers
@output.json_option
def prove_command(
    vault: str, entry: int | None, path: str | None, store: str | None, allowed_signers: str | None, as_json: bool
) -> None:
    """Write a proof that an entry is in the ledger, which anybody checks offline: C2SP's tlog-proof, with the entry in it.

    It holds the ledger's latest checkpoint, with the witnesses' cosignatures.
    """
    from dumpvault.cli.custody import load_custody
    from dumpvault.flows.listing import find_vault
    from dumpvault.flows.witnessing import first_entry, prove

    custody = load_custody(store, allowed_signers)
    found = find_vault(custody.ledger.store, vault)
    write = output.new_file(path)
    proof = prove(custody, first_entry(custody, found) if entry is None else entry)
    name = write(f"entry-{proof.index}.tlog-proof", proof.encode())
    if as_json:
        output.print_json({"entry": proof.index, "file": name, "origin": custody.origin, "vault": found})
    else:
        click.echo(name)


@click.command(
    "check",
    epilog=output.epilog(
        "dumpvault custody check entry-17.tlog-proof --allowed-signers auditors_copy", codes=(0, 1, 2, 10, 12)
    ),
)
@click.argument("proof", metavar="FILE")
@_signers
@at_option
@output.json_option
def check_command(proof: str, allowed_signers: str | None, at: datetime | None, as_json: bool) -> None:
    """Check a proof, offline: that its entry counts, and that a trusted log has it.

    Without a witness's cosignature it says nothing of when; with one, that it was there by then.
    """
    from dumpvault.flows.witnessing import check_proof

    trust = load_trust(load_site(), allowed_signers, at)
    try:
        with open(proof, "rb") as file:
            data = file.read(1 << 18)
    except OSError as error:
        raise BadInput(f"{proof}: {error.strerror}", "It should hold a proof.") from None
    found = check_proof(data, proof, trust, at or datetime.now(UTC))
    entry = found.judged.entry
    assert entry is not None
    by = [f"{who} by {when:%Y-%m-%d %H:%M:%SZ}" for who, when in found.cosigned]
    if as_json:
        output.print_json(
            {
                "by": found.judged.principal,
                "checkpoint": {"root": found.checkpoint.root.hex(), "size": found.checkpoint.size},
                "cosigned": [{"time": f"{when:%Y-%m-%dT%H:%M:%SZ}", "witness": who} for who, when in found.cosigned],
                "entry": found.index,
                "event": entry.event,
                "manifest": entry.digest,
                "origin": found.checkpoint.origin,
                "role": entry.role,
                "time": entry.time,
                "vault": entry.vault,
            }
        )
        return
    what = f"{entry.event} by {found.judged.principal} ({entry.role}), {entry.time} by its own clock"
    click.echo(output.printable(f"entry {found.index} of {found.checkpoint.origin}: {what}"))
    click.echo(output.printable(f"vault {entry.vault}, {entry.subject.rpartition('/')[2]} {entry.digest}"))
    click.echo(output.printable(f"seen: {', '.join(by) or 'by no witness that is trusted here'}"))


@click.command(
    "witness",
    epilog=output.epilog(
        "dumpvault custody witness --store /mnt/vaults", "dumpvault custody witness --signer eve --json",
        codes=(0, 2, 3, 10, 12, 13),
    ),
)  # fmt: skip
@store_option
@click.option("--signer", metavar="NAME", help="The witness's key. [default: the home's first]")
@_signers
@output.json_option
def witness_command(store: str | None, signer: str | None, allowed_signers: str | None, as_json: bool) -> None:
    """Verify a ledger as 'custody verify' does, and cosign its latest checkpoint: that it was there by now.

    A witness is another home than those that write, with a key of role witness. It remembers what it has signed, and
    signs nothing that does not continue it.
    """
    from dumpvault.cli.custody import load_custody
    from dumpvault.flows.witnessing import witness

    custody = load_custody(store, allowed_signers)
    checkpoint, who, before = witness(custody, signer)
    said = "had cosigned it before" if before else "cosigned"
    output.say(f"{checkpoint.origin}: checkpoint of {checkpoint.size} entries, {said} by {who}")
    if as_json:
        output.print_json({"before": before, "origin": checkpoint.origin, "size": checkpoint.size, "witness": who})
