"""DSSE v1 envelopes around in-toto Statements v1, and who must have signed them (spec, sections 5.1 and 5.2)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dumpvault.errors import Forged
from dumpvault.formats import jcs
from dumpvault.formats.allowed_signers import AllowedSigners, namespace
from dumpvault.formats.sshkey import CanSign

__all__ = ["LIMIT", "SIGNATURES", "Assessed", "Envelope", "Statement", "pae", "parse", "sign"]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
LIMIT = 1 << 20
#: The most signatures of one envelope, which is also the most signers of a vault.
SIGNATURES = 16


@dataclass(frozen=True, slots=True)
class Statement:
    """An in-toto Statement with its one subject; ``type`` is the spec's short name (``header``, ``commit``, …)."""

    type: str
    subject: str
    digest: str
    predicate: dict[str, Any]

    def encode(self) -> bytes:
        """The payload: RFC 8785 bytes."""
        return jcs.encode(
            {
                "_type": STATEMENT_TYPE,
                "predicate": self.predicate,
                "predicateType": f"urn:dumpvault:{self.type}:v1",
                "subject": [{"digest": {"sha256": self.digest}, "name": self.subject}],
            }
        )


@dataclass(frozen=True, slots=True)
class Assessed:
    """One signature of an envelope, as one verifier sees it.

    ``algorithm`` is empty and ``verified`` None where the verifier does not know the key. ``counts`` says that the key
    has the role and may sign for this vault, ``objection`` else why not; ``stock_checkable`` that OpenSSH's ssh-keygen
    knows such signatures. A rule may rely on a signature only where ``counts`` and ``verified`` are both true.
    """

    keyid: str
    principal: str
    algorithm: str
    counts: bool
    verified: bool | None
    stock_checkable: bool
    objection: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope; nothing in it is to be believed before ``check`` has returned."""

    name: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    def encode(self) -> bytes:
        """RFC 8785 bytes: those that it was read from."""
        return jcs.encode(
            {
                "payload": jcs.b64encode(self.payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [
                    {"keyid": keyid, "sig": jcs.b64encode(signature)} for keyid, signature in self.signatures
                ],
            }
        )

    def assess(
        self,
        statement: str,
        trust: AllowedSigners,
        moment: datetime,
        *,
        host: str | None = None,
        pinned: Collection[str] | None = None,
    ) -> tuple[Assessed, ...]:
        """Each signature in order, for the role of ``statement``; ``pinned`` are the only key ids that count, if given."""
        role = namespace(statement)
        data = pae(self.payload)
        found = []
        for keyid, signature in self.signatures:
            listed = trust.by_keyid(keyid)
            if not listed:
                found.append(Assessed(keyid, keyid, "", False, None, False, f"{keyid} is not in {trust.name}"))
                continue
            who, signer = f"{listed[0].principal} ({keyid})", listed[0].signer
            objection = ""
            if all(objections := [key.objection(role, host, moment) for key in listed]):
                objection = f"{who} {objections[0]}"
            elif pinned is not None and keyid not in pinned:
                objection = f"{who} is not a signer of this vault"
            kind = signer.algorithm
            found.append(
                Assessed(
                    keyid, listed[0].principal, kind.name, not objection, signer.verifies(signature, data), kind.stock,
                    objection,
                )
            )  # fmt: skip
        return tuple(found)

    def check(
        self,
        statement: str,
        trust: AllowedSigners,
        moment: datetime,
        *,
        host: str | None = None,
        pinned: Collection[str] | None = None,
    ) -> tuple[str, ...]:
        """The key ids that make the envelope good for the role of ``statement``; raises ``Forged`` if there is none."""
        return self.good(self.assess(statement, trust, moment, host=host, pinned=pinned))

    def good(self, assessed: Sequence[Assessed]) -> tuple[str, ...]:
        """The key ids that make the envelope good, by what ``assess`` found; raises ``Forged`` if there is none.

        A signature that counts and does not verify is refused even where another one holds.
        """
        for one in assessed:
            if one.counts and not one.verified:
                raise Forged(
                    f"{self.name}: the signature of {one.principal} ({one.keyid}) does not verify",
                    "The object was changed or damaged after signing. Restore it from a copy; do not trust this one.",
                )
        good = tuple(one.keyid for one in assessed if one.counts)
        if not good:
            raise Forged(
                f"{self.name}: no trusted signature: {'; '.join(one.objection for one in assessed)}",
                "If the key is genuine, add it with its role to allowed_signers; else do not trust this vault.",
            )
        return good

    def statement(self, expected: str) -> Statement:
        """The payload read as a statement of type ``expected``; raises ``Forged``."""
        fields = jcs.Fields(jcs.decode(self.payload, f"{self.name}: payload", len(self.payload)), self.name)
        fields.exactly("_type", STATEMENT_TYPE)
        fields.exactly("predicateType", f"urn:dumpvault:{expected}:v1")
        predicate = fields.take("predicate")
        (subject,) = fields.objects("subject", 1, 1)
        name = subject.text("name")
        digests = subject.object("digest")
        digest = digests.digest("sha256")
        for part in (digests, subject, fields):
            part.done()
        return Statement(expected, name, digest, predicate)


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type.encode(), len(payload), payload)


def sign(statement: Statement, keys: Sequence[CanSign]) -> bytes:
    """The envelope of ``statement``, signed by every one of ``keys`` (1 to 16, none twice)."""
    payload = statement.encode()
    data = pae(payload)
    return Envelope("", payload, tuple((key.signer.keyid, key.sign(data)) for key in keys)).encode()


def parse(data: bytes, name: str, limit: int = LIMIT) -> Envelope:
    """Read an envelope without believing it; ``name`` is the object's, ``limit`` in bytes. Raises ``Forged``."""
    value = jcs.decode(data, name, limit)
    fields = jcs.Fields(value, name)
    if jcs.encode(value) != data:
        fields.refuse("is not in RFC 8785 form")
    fields.exactly("payloadType", PAYLOAD_TYPE)
    payload = fields.base64("payload")
    signatures = []
    for entry in fields.objects("signatures", SIGNATURES, 1):
        signatures.append((entry.text("keyid"), entry.base64("sig")))
        entry.done()
    fields.done()
    if len({keyid for keyid, _ in signatures}) != len(signatures):
        fields.refuse("has two signatures of one key")
    return Envelope(name, payload, tuple(signatures))
