"""``dumpvault custody``: what the ledger of a store says, and whether it is the ledger that it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from dumpvault.cli import output
from dumpvault.cli.approvals import read_envelope
from dumpvault.cli.evidence import check_command, export_command, mirror_command, prove_command, witness_command
from dumpvault.cli.recording import custody_options, load_custody
from dumpvault.cli.site import at_option
from dumpvault.errors import Usage

if TYPE_CHECKING:
    from dumpvault.flows.auditing import Audit, Seen
    from dumpvault.flows.custody import Custody
    from dumpvault.formats.entry import Entry

__all__ = ["custody_command"]

_MARKS = {"held": "held", "missing": "MISSING", "failed": "FAILED", "skipped": "not done"}
_RECORDS = ("received", "moved", "exported")


@click.group("custody")
def custody_command() -> None:
    """The ledger of a store: who did what with its vaults, in an order that cannot be changed without being seen.

    Each command that opens or changes a vault writes an entry of its own. None of these needs a key that opens anything.
    """


@custody_command.command(
    "verify",
    epilog=output.epilog(
        "dumpvault custody verify",
        "dumpvault custody verify --since last-audit.checkpoint --allowed-signers auditors_copy --json",
        "dumpvault custody verify --keep this-audit.checkpoint",
        codes=(0, 2, 3, 10, 12, 13),
    ),
)
@custody_options
@click.option("--since", metavar="FILE", help="A checkpoint from before, which this ledger must continue.")
@click.option("--keep", metavar="FILE", help="Write the latest checkpoint here, for --since of the next time.")
@click.option("--strict", is_flag=True, help="Exit 10 also for entries that do not count, or name no credible time.")
@click.option("--record", is_flag=True, help="Then write into the ledger that it was audited.")
@at_option
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="Processes. [default: one per processor]")
def verify_command(
    store: str | None, allowed_signers: str | None, since: str | None, keep: str | None, strict: bool, record: bool,
    at: datetime | None, jobs: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Check the whole ledger: every entry, signature and role, the tree, the checkpoints and what others saw of it.

    It must also continue the checkpoint that this home remembers, and then is remembered itself. Entries that do not
    count, because nobody trusted signed them or somebody copied them, are told of and change nothing: whoever may write
    to a store can put some there.
    """
    from dumpvault.flows.auditing import audit
    from dumpvault.flows.witnessing import kept

    write = output.new_file(keep) if keep else None
    custody = load_custody(store, allowed_signers, at)
    seen = kept(custody) + ([_since(custody, since)] if since else [])
    with output.bar("verifying") as progress:
        found = audit(custody, seen, at or datetime.now(UTC), jobs, progress)
    if found.verdict != "failed" and found.checkpoint:
        custody.remember(found.checkpoint)
        if write:
            write("", found.note)
    if record and not found.findings:
        _record_audit(custody, found)
    code = found.exit_code or (10 if strict and (found.flags or found.doubts) else 0)
    if as_json:
        output.print_json(_encode(found))
    else:
        _print(found)
    if code:
        raise click.exceptions.Exit(code)


def _since(custody: Custody, path: str) -> Seen:
    """The checkpoint in a file: a note that the ledger's log signed. Raises ``BadInput`` or ``Forged``."""
    from dumpvault.flows.auditing import Seen
    from dumpvault.formats.checkpoint import Checkpoint

    found, _ = Checkpoint.verified(read_envelope(path, "a checkpoint"), custody.origin, custody.ledger.logs, path)
    return Seen(path, found)


def _record_audit(custody: Custody, found: Audit) -> None:
    import hashlib

    assert found.checkpoint is not None
    text = found.checkpoint.text.encode()
    subject = ("checkpoint", hashlib.sha256(text).hexdigest(), hashlib.sha384(text).hexdigest())
    detail = {"flagged": str(len(found.flags)), "size": str(found.checkpoint.size), "verdict": found.verdict}
    custody.record(event="audited", role="auditor", vault=None, subject=subject, detail=detail)


def _print(found: Audit) -> None:
    for step in found.steps:
        note = f"  ({output.printable(step.note)})" if step.note else ""
        click.echo(f"{step.number:>3}. {step.title:<16} {_MARKS[step.state]}{note}")
    told = [*(f"flagged: {why}" for why in found.flags.values()), *found.others]
    told += [f"doubtful: ledger/entries/{number}: {why}" for number, why in found.doubts.items()]
    for line in told[:20]:
        click.echo(f"     {output.printable(line)}")
    if len(told) > 20:
        click.echo(f"     and {len(told) - 20} more; --json lists all")
    if found.waiting:
        click.echo(f"     {found.waiting} wait in the inbox; 'dumpvault custody sequence' gives them numbers")
    covered = f"up to checkpoint {found.checkpoint.size}" if found.checkpoint else "no checkpoint"
    click.echo(f"{found.origin}: {found.verdict}; {found.size} entries, {covered}")
    for finding in found.findings[:20]:
        output.say(f"{finding.kind}: {finding.message}")
        if finding.hint:
            output.say(f"  {finding.hint}")


def _encode(found: Audit) -> dict[str, object]:
    last = found.checkpoint
    return {
        "checkpoint": last and {"root": last.root.hex(), "size": last.size},
        "cosigned": [
            {"size": size, "time": f"{at:%Y-%m-%dT%H:%M:%SZ}", "witness": who}
            for size, both in sorted(found.cosigned.items())
            for who, at in both
        ],
        "doubtful": [{"entry": number, "why": why} for number, why in found.doubts.items()],
        "entries": found.size,
        "findings": [{"hint": one.hint, "kind": one.kind, "message": one.message} for one in found.findings],
        "flagged": [{"entry": number, "why": why} for number, why in found.flags.items()],
        "origin": found.origin,
        "others": found.others,
        "steps": [{"note": s.note, "number": s.number, "state": s.state, "title": s.title} for s in found.steps],
        "verdict": found.verdict,
        "waiting": found.waiting,
    }


@custody_command.command(
    "log",
    epilog=output.epilog(
        "dumpvault custody log", "dumpvault custody log 3f9c", "dumpvault custody log latest --json",
        codes=(0, 2, 3, 10, 12, 13),
    ),
)  # fmt: skip
@click.argument("vault", metavar="[ID]", required=False)
@custody_options
@at_option
def log_command(
    vault: str | None, store: str | None, allowed_signers: str | None, at: datetime | None, as_json: bool
) -> None:
    """Tell what the ledger has, of one vault or of all, in its order; the ledger is verified first.

    A time is what the actor's clock said; where somebody else had seen the entry, it says by when.
    """
    from dumpvault.flows.auditing import audit
    from dumpvault.flows.listing import find_vault
    from dumpvault.flows.witnessing import kept

    custody = load_custody(store, allowed_signers, at)
    wanted = find_vault(custody.ledger.store, vault) if vault else None
    found = audit(custody, kept(custody), at or datetime.now(UTC))
    for finding in found.findings:
        output.say(f"{finding.kind}: {finding.message}")
    told = [(n, j) for n, j in custody.entries(wanted) if n < found.size and n not in found.flags]
    if as_json:
        entries = []
        for number, judged in told:
            assert judged.entry
            anchor = found.anchor(number)
            entries.append(
                {"by": judged.principal, "index": number, "key": judged.keyid, "sha256": judged.digest,
                 "seen_by_others": anchor and f"{anchor:%Y-%m-%dT%H:%M:%SZ}", "doubt": found.doubts.get(number),
                 **_fields(judged.entry)}
            )  # fmt: skip
        output.print_json(
            {"entries": entries, "flagged": len(found.flags), "origin": found.origin, "verdict": found.verdict}
        )
    else:
        for number, judged in told:
            assert judged.entry
            click.echo(f"{number:>6}  {_line(judged.entry, judged.principal)}")
            if number in found.doubts:
                click.echo(f"        {found.doubts[number]}")
        if found.flags:
            click.echo(f"{len(found.flags)} more do not count; 'dumpvault custody verify' tells why")
    if found.exit_code:
        raise click.exceptions.Exit(found.exit_code)


def _fields(entry: Entry) -> dict[str, object]:
    return {
        "actor": entry.actor, "detail": dict(entry.detail or {}), "event": entry.event, "from": entry.from_,
        "host": entry.host, "manifest": entry.digest, "purpose": entry.purpose, "role": entry.role,
        "ticket": entry.ticket, "time": entry.time, "to": entry.to, "tool": f"{entry.tool} {entry.version}",
        "vault": entry.vault,
    }  # fmt: skip


def _line(entry: Entry, principal: str) -> str:
    from dumpvault.flows.custody_told import words

    more = [words(entry)]
    more += [f"({text})" for text in (entry.purpose, entry.ticket) if text]
    vault = (entry.vault or "the ledger")[:12]
    line = f"{entry.time}  {vault:<12}  {entry.event:<9}  {principal} ({entry.role}, {entry.host})  {' '.join(more)}"
    return output.printable(line).rstrip()


@custody_command.command(
    "record",
    epilog=output.epilog(
        "dumpvault custody record 3f9c received --from site-a --reason 'by courier' --ticket INC-7",
        "dumpvault custody record latest exported --to 'Regulator, case 4711'",
        codes=(0, 2, 3, 10, 12, 13),
    ),
)
@click.argument("vault", metavar="ID")
@click.argument("event", type=click.Choice(_RECORDS))
@click.option("--as", "role", type=click.Choice(("analyst", "custodian", "officer", "auditor")), default="auditor",
              show_default=True, help="As what you did it.")  # fmt: skip
@click.option("--from", "from_", metavar="WHOM", help="Where it came from.")
@click.option("--to", metavar="WHOM", help="Where it went.")
@click.option("--reason", default="", metavar="TEXT", help="Why.")
@click.option("--ticket", default="", metavar="ID", help="Where this is recorded.")
@custody_options
def record_command(
    vault: str, event: str, role: str, from_: str | None, to: str | None, reason: str, ticket: str, store: str | None,
    allowed_signers: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write into the ledger what no command of dumpvault did: that a vault was received, moved or exported.

    The vault's header and manifest are verified first: the entry names the manifest by its digest.
    """
    from dumpvault.flows.listing import find_vault
    from dumpvault.flows.recording import subject_of
    from dumpvault.flows.verify import verify

    custody = load_custody(store, allowed_signers)
    place = custody.ledger.store
    report = verify(place, find_vault(place, vault), custody.trust, bodies=False, keys=False)
    for finding in report.of_steps(1, 2, 3):
        raise finding
    done = custody.record(
        event=event, role=role, vault=report.vault, subject=subject_of(place, report), purpose=reason.strip() or None,
        ticket=ticket or None, from_=from_, to=to,
    )  # fmt: skip
    output.say(f"{report.vault}: {event}, entry {done.index} of {custody.origin}")
    if as_json:
        output.print_json({"entry": done.index, "event": event, "sha256": done.digest, "vault": report.vault})


@custody_command.command("sequence", epilog=output.epilog("dumpvault custody sequence", codes=(0, 2, 3, 10, 12, 13)))
@custody_options
def sequence_command(store: str | None, allowed_signers: str | None, as_json: bool) -> None:
    """Give numbers to what collectors put into the inbox, and sign a checkpoint over all that has none.

    Every other entry does the same by the way: this is for a store that only collectors write to, once a day say.
    """
    custody = load_custody(store, allowed_signers)
    if not custody.ledger.logs:
        raise Usage(
            f"no trusted key signs checkpoints of {custody.origin}", "Import the log's public key with role log."
        )
    made = custody.sequence()
    size = made.size if made else 0
    left_out = list(custody.left_out())
    for name, why in left_out[:20]:
        output.say(f"note: {name} gets no number: {why}")
    output.say(f"{custody.origin}: checkpoint of {size} entries" if made else f"{custody.origin}: no checkpoint")
    if as_json:
        output.print_json(
            {
                "checkpoint": made and {"root": made.root.hex(), "size": size},
                "left_out": [{"object": name, "why": why} for name, why in left_out],
                "origin": custody.origin,
            }
        )


for _command in (prove_command, check_command, witness_command, export_command, mirror_command):
    custody_command.add_command(_command)
