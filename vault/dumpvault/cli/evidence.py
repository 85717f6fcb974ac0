"""``dumpvault custody prove``, ``check``, ``witness``, ``export`` and ``mirror``: what is given to others."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from dumpvault.cli import output
from dumpvault.cli.approvals import read_envelope
from dumpvault.cli.recording import custody_options, load_custody, why_options
from dumpvault.cli.site import at_option, load_site, load_trust, store_option

__all__ = ["check_command", "export_command", "mirror_command", "prove_command", "witness_command"]

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
    found = check_proof(read_envelope(proof, "a proof"), proof, trust, at or datetime.now(UTC))
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
@click.option("--tsa", metavar="URL", help="Have this authority timestamp the checkpoint as well (RFC 3161).")
@_signers
@output.json_option
def witness_command(
    store: str | None, signer: str | None, tsa: str | None, allowed_signers: str | None, as_json: bool
) -> None:
    """Verify a ledger as 'custody verify' does, and cosign its latest checkpoint: that it was there by now.

    A witness is another home than those that write, with a key of role witness. It remembers what it has signed, and
    signs nothing that does not continue it.
    """
    from dumpvault.flows.witnessing import witness

    custody = load_custody(store, allowed_signers)
    checkpoint, who, before = witness(custody, signer)
    stamp = custody.stamp(checkpoint, tsa) if tsa else None
    said = "had cosigned it before" if before else "cosigned"
    output.say(f"{checkpoint.origin}: checkpoint of {checkpoint.size} entries, {said} by {who}")
    if as_json:
        output.print_json(
            {
                "before": before,
                "origin": checkpoint.origin,
                "size": checkpoint.size,
                "timestamp": stamp and {"source": stamp[0], "time": f"{stamp[1]:%Y-%m-%dT%H:%M:%SZ}"},
                "witness": who,
            }
        )


@click.command(
    "export",
    epilog=output.epilog(
        "dumpvault custody export 3f9c --to 'Regulator, case 4711' -o evidence.tar",
        "dumpvault custody export latest --no-case --json",
        codes=(0, 1, 2, 3, 10, 11, 12, 13),
    ),
)
@click.argument("vault", metavar="ID")
@click.option("-o", "--output", "path", metavar="FILE", help="Where to write. [default: a name of its own]")
@click.option("--to", metavar="WHOM", help="Who gets it, for the ledger.")
@why_options
@click.option("--case/--no-case", default=True, help="With the entries as CASE/UCO JSON-LD. [default: with]")
@store_option
@_signers
@output.json_option
def export_command(
    vault: str, path: str | None, to: str | None, reason: str, ticket: str, case: bool, store: str | None,
    allowed_signers: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write a tar archive that proves a vault's custody to somebody who has sha256sum, openssl and ssh-keygen, not dumpvault.

    It holds what is signed of the vault, each of its entries with a proof, public keys, and a page that says how to check
    them; no sealed memory and no key. That it was exported is an entry first, so that the archive holds that as well.
    """
    from dumpvault.flows.exporting import export
    from dumpvault.flows.listing import find_vault
    from dumpvault.flows.recording import Recording
    from dumpvault.flows.verify import verify
    from dumpvault.formats.policy_facts import Retrieval

    custody = load_custody(store, allowed_signers)
    place = custody.ledger.store
    found = find_vault(place, vault)
    write = output.new_file(path)
    name = f"evidence-{found[:12]}.tar"
    report = verify(place, found, custody.trust, bodies=False, keys=False)
    for finding in report.of_steps(1, 2, 3):
        raise finding
    recording = Recording(custody.site, place, output.say, custody)
    recording.record(report, "exported", "auditor", Retrieval(reason, ticket), {"to_file": path or name}, to=to)
    made = export(custody, found, case=case)
    name = write(name, made.data)
    output.say(f"{name}: {made.entries} entries, up to checkpoint {made.size}; check.sh in it checks them")
    if made.newer:
        output.say(
            f"note: {made.newer} newer entries are left out: no checkpoint covers them; "
            "'dumpvault custody sequence' signs one, in a home that has the log's key"
        )
    if as_json:
        output.print_json(
            {"checkpoint": made.size, "entries": made.entries, "file": name, "newer": made.newer, "vault": found}
        )
    else:
        click.echo(name)


@click.command(
    "mirror",
    epilog=output.epilog("dumpvault custody mirror /srv/www/ledger", codes=(0, 1, 2, 3, 10, 12, 13)),
)
@click.argument("folder", metavar="DIR")
@custody_options
def mirror_command(folder: str, store: str | None, allowed_signers: str | None, as_json: bool) -> None:
    """Write the ledger as plain C2SP tlog-tiles, for monitors and other clients of such logs.

    Run it again, and what is new is added. It holds every entry, of all vaults of the store.
    """
    from dumpvault.flows.mirroring import mirror

    custody = load_custody(store, allowed_signers)
    made = mirror(custody, folder)
    output.say(f"{folder}: {custody.origin}, {made.size} entries")
    if as_json:
        output.print_json({"directory": folder, "origin": custody.origin, "root": made.root.hex(), "size": made.size})
