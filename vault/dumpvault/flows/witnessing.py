"""What one home gives others to check a ledger by: proofs of entries, and cosignatures of checkpoints it has verified."""

from __future__ import annotations

from datetime import UTC, datetime

from dumpvault.errors import Forged, Incomplete, NoKey
from dumpvault.flows.anchors import cosignatures, log_keys, witnesses
from dumpvault.flows.auditing import Seen, audit
from dumpvault.flows.custody import Custody
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.entry import Judged, judge
from dumpvault.formats.note import LINES, Note, cosign
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.sshkey import SigningKey
from dumpvault.formats.tlog_proof import Proof
from dumpvault.stages.store.contract import ObjectExists

__all__ = ["Proved", "check_proof", "first_entry", "kept", "prove", "witness"]


def kept(custody: Custody) -> list[Seen]:
    """What this home remembers of the ledger, for an audit."""
    known = custody.known
    return [Seen("this home's memory", known)] if known else []


def first_entry(custody: Custody, vault: str) -> int:
    """The first entry that counts and names the vault. Raises ``Incomplete``."""
    for number, _ in custody.entries(vault):
        return number
    raise Incomplete(
        f"ledger {custody.origin}: no entry of vault {vault} that counts",
        "What a collector put waits for its number: 'dumpvault custody sequence' gives it one.",
    )


def prove(custody: Custody, number: int, checkpoint: Checkpoint | None = None) -> Proof:
    """That entry ``number`` is in the ledger, by ``checkpoint`` or its latest one, and who cosigned that.

    Raises ``VaultError``.
    """
    latest = checkpoint or custody.check()
    if latest is None or not 0 <= number < latest.size:
        have = latest.size if latest else 0
        raise Incomplete(
            f"ledger {custody.origin}: no checkpoint covers entry {number} yet, the latest is of {have}",
            "'dumpvault custody sequence' signs one, in a home that has the log's key.",
        )
    return Proof(
        number,
        custody.ledger.entry(number),
        tuple(custody.ledger.prove(number, latest)),
        cosigned_note(custody, latest),
    )


def cosigned_note(custody: Custody, checkpoint: Checkpoint) -> bytes:
    """A checkpoint's note, with the lines of the witnesses that are trusted here."""
    store, size = custody.ledger.store, checkpoint.size
    name = f"ledger/checkpoints/{size}"
    note = Note.parse(store.get(name, 0, 1 << 15), name)
    lines = [line for line, _ in cosignatures(custody.ledger, custody.trust, checkpoint)]
    return Note(note.text, (*note.lines, *lines)[:LINES]).encode()


class Proved:
    """What a proof proves: an entry that counts by itself, its place, and by when witnesses had seen it."""

    def __init__(
        self, proof: Proof, judged: Judged, checkpoint: Checkpoint, cosigned: list[tuple[str, datetime]]
    ) -> None:
        self.index = proof.index
        self.judged = judged
        self.checkpoint = checkpoint
        self.cosigned = cosigned


def check_proof(data: bytes, where: str, trust: AllowedSigners, moment: datetime) -> Proved:
    """Check a proof offline, with nothing but trusted keys. Raises ``Forged``."""
    proof = Proof.parse(data, where)
    origin = Checkpoint.read(Note.parse(proof.note, where), where).origin
    checkpoint, note = proof.verify(origin, log_keys(trust, origin), where)
    cosigned = witnesses(note, trust)
    judged = judge(proof.extra, f"{where}: entry {proof.index}", origin, trust)
    if why := judged.flag or judged.expired(min([moment, *(at for _, at in cosigned)])):
        raise Forged(f"{where}: the entry is in the ledger, and does not count: {why}", "It says nothing.")
    return Proved(proof, judged, checkpoint, cosigned)


def witness(custody: Custody, name: str | None = None) -> tuple[Checkpoint, str, bool]:
    """Verify the whole ledger, then cosign its latest checkpoint with a witness's key of this home.

    Returns the checkpoint, the witness's name, and whether it had signed that before. Raises ``NoKey``, ``Forged``.
    """
    able = [
        (line, key)
        for line, key in custody.own_keys("cosignature")
        if isinstance(key, PrivateKey) and key.algorithm == "ed25519" and name in (None, key.name)
    ]
    if not able:
        raise NoKey(
            "no witness's key of this home is at hand",
            "'dumpvault keys new signer NAME --role witness --unprotected' makes one; others import its public half.",
        )
    line, key = able[0]
    assert isinstance(key, PrivateKey)
    found = audit(custody, kept(custody), datetime.now(UTC))
    for finding in found.findings:
        raise finding
    checkpoint = found.checkpoint
    assert checkpoint is not None
    custody.remember(checkpoint)
    signing = SigningKey(key.secret, key.algorithm)
    made = cosign(checkpoint.text, line.principal, signing, int(datetime.now(UTC).timestamp()))
    try:
        custody.ledger.store.put(f"ledger/cosignatures/{checkpoint.size}/{made.id.hex()}", made.text.encode())
    except ObjectExists:
        return checkpoint, line.principal, True
    return checkpoint, line.principal, False
