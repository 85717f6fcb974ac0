"""One archive that an outside party checks with stock tools alone: what is signed of a vault, and its entries with proofs."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dumpvault import __version__
from dumpvault.errors import Incomplete
from dumpvault.flows.anchors import cosignatures, stamped, vouched_checkpoints
from dumpvault.flows.custody import Custody
from dumpvault.flows.signers import signer_facts
from dumpvault.flows.verified import Report
from dumpvault.flows.verify import verify
from dumpvault.flows.witnessing import cosigned_note, prove
from dumpvault.formats import jcs
from dumpvault.formats.case_uco import provenance
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.entry import Entry
from dumpvault.formats.note import COSIGNATURE, Note, cosigned, key_id
from dumpvault.formats.sshkey import Signer
from dumpvault.model import vault_prefix

__all__ = ["Exported", "export"]

#: What of a vault is exported, besides its first objects: all that is signed, and nothing that is sealed or wraps a key.
_FOLDERS = ("commits", "events", "timestamps")
_OBJECTS = ("vault.dsse.json", "manifest.dsse.json", "manifest.json", "manifest.json.sig")


@dataclass(frozen=True, slots=True)
class Exported:
    """The archive's bytes, and how many entries are in it, up to a checkpoint of ``size``; ``newer`` are not covered yet."""

    data: bytes
    entries: int
    size: int
    newer: int


def export(custody: Custody, vault: str, *, case: bool) -> Exported:
    """Verify the vault's signatures, and gather it all. Raises ``VaultError``.

    ``case`` adds the entries as CASE/UCO.
    """
    store = custody.ledger.store
    report = verify(store, vault, custody.trust, bodies=False, keys=False)
    for finding in report.of_steps(1, 2, 3, 4, 8):
        raise finding
    if report.examiner.manifest is None:
        raise Incomplete(f"vault {vault} has no manifest, so no entry names it", "Let the capture be finished first.")
    checkpoint = custody.check()
    everything = [(number, judged) for number, judged in custody.entries(vault) if judged.entry]
    entries = [(number, judged) for number, judged in everything if checkpoint and number < checkpoint.size]
    if checkpoint is None or not entries:
        raise Incomplete(
            f"ledger {custody.origin}: no checkpoint covers any entry of vault {vault}",
            "'dumpvault custody sequence' signs one, in a home that has the log's key.",
        )
    files = dict(_signed_objects(custody, report))
    files["checkpoint"] = note = cosigned_note(custody, checkpoint)
    vouched = vouched_checkpoints(custody.ledger, custody.trust)
    by = {number: next((one for one in vouched if one.size > number), checkpoint) for number, _ in entries}
    for number, one in by.items():
        files[f"proofs/{number:06}.tlog-proof"] = prove(custody, number, one).encode()
    for one in set(by.values()):
        files |= _vouched(custody, one)
    log = next(
        key
        for key in custody.ledger.logs
        if Note.parse(note, "checkpoint").signed_by(custody.origin, key, "checkpoint")
    )
    files["keys/log.pem"] = _pem(log)
    signers = {judged.keyid: judged.keys[0].signer for _, judged in entries}
    for keyid, signer in signers.items():
        if signer.algorithm.name == "ed25519":
            files[f"keys/{hashlib.sha256(keyid.encode()).hexdigest()[:16]}.pem"] = _pem(signer)
    first = next((facts for facts in signer_facts(report.examiner) if facts.sidecar), None)
    if first:
        files["keys/manifest-signer"] = first.name.encode()
    fingerprints = [(facts.name, facts.keyid) for facts in signer_facts(report.examiner)]
    fingerprints += [(judged.principal, judged.keyid) for _, judged in entries]
    fingerprints.append((custody.trust.principal(log.keyid), log.keyid))
    ends = {key.signer.keyid: f"{key.valid_before:%Y-%m-%d %H:%MZ}" for key in custody.trust.keys if key.valid_before}
    files["keys/allowed_signers"] = _trust(custody, {keyid for _, keyid in fingerprints})
    told: list[tuple[int, Entry, str]] = [(n, judged.entry, judged.principal) for n, judged in entries if judged.entry]
    manifest = files["vault/manifest.dsse.json"]
    if case:
        files["provenance.jsonld"] = provenance(custody.origin, vault, manifest, report.examiner.manifest_digest, told)
    files["check.sh"] = _template("check.sh").encode()
    files["README.txt"] = _readme(
        vault=vault, host=report.examiner.header.host, captured=report.examiner.header.created,
        made=jcs.to_time(datetime.now(UTC)), tool=f"dumpvault {__version__}", entries=len(entries), origin=custody.origin,
        size=checkpoint.size, fingerprints=sorted(set(fingerprints)), ends=ends, signer=first.name if first else "NAME",
        timestamps=any("timestamps/" in name for name in files),
    )  # fmt: skip
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    files["SHA256SUMS"] = sums.encode()
    return Exported(
        _archive(f"evidence-{vault[:12]}", files), len(entries), checkpoint.size, len(everything) - len(entries)
    )


def _signed_objects(custody: Custody, report: Report) -> Iterator[tuple[str, bytes]]:
    store, prefix = custody.ledger.store, vault_prefix(report.vault)
    names = list(_OBJECTS)
    for folder in _FOLDERS:
        names += sorted(name[len(prefix) + 1 :] for name in store.list(f"{prefix}/{folder}"))
    for name in names:
        if name not in report.foreign and store.size(f"{prefix}/{name}") is not None:
            yield f"vault/{name}", store.get(f"{prefix}/{name}")


def _vouched(custody: Custody, checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """What witnesses and timestamp authorities say of a checkpoint, in files for openssl."""
    store, size = custody.ledger.store, checkpoint.size
    for name in (
        store.children(f"ledger/timestamps/{size}") if stamped(custody.ledger, custody.trust, checkpoint) else ()
    ):
        yield f"timestamps/{size}/{name}", store.get(f"ledger/timestamps/{size}/{name}")
        yield f"timestamps/{size}/checkpoint.txt", checkpoint.text.encode()
    for line, (name, _) in cosignatures(custody.ledger, custody.trust, checkpoint):
        signer = next(k.signer for k in custody.trust.keys if key_id(name, COSIGNATURE, k.signer.public) == line.id)
        folder = f"witnesses/{size}-{name}"
        yield f"{folder}/signed", cosigned(checkpoint.text, int.from_bytes(line.signature[:8]))
        yield f"{folder}/sig", line.signature[8:]
        yield f"{folder}/key.pem", _pem(signer)


def _trust(custody: Custody, keyids: set[str]) -> bytes:
    """The lines of the keys that signed what is here, without their ends in time: stock tools would judge those by today."""
    kept = [key for key in custody.trust.keys if key.signer.keyid in keyids and not key.revoked]
    return "".join(replace(key, valid_after=None, valid_before=None).line for key in kept).encode()


def _pem(signer: Signer) -> bytes:
    key = Ed25519PublicKey.from_public_bytes(signer.public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _template(name: str) -> str:
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "templates", name)
    with open(path, encoding="utf-8") as file:
        return file.read()


def _readme(**facts: object) -> bytes:
    from jinja2 import Environment, StrictUndefined

    page = Environment(undefined=StrictUndefined, autoescape=False).from_string(_template("evidence.txt.j2"))  # noqa: S701 - plain text
    text = page.render(**facts)
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text).encode() + b"\n"


def _archive(folder: str, files: dict[str, bytes]) -> bytes:
    """A tar archive that is the same for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in sorted(files.items()):
            item = tarfile.TarInfo(f"{folder}/{name}")
            item.size, item.mode = len(data), 0o755 if name == "check.sh" else 0o644
            archive.addfile(item, io.BytesIO(data))
    return out.getvalue()
