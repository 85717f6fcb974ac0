"""Who signed a vault with what, signer by signer, and which of it a stock tool can check (spec, sections 5.2 and 5.3)."""

from __future__ import annotations

from dataclasses import dataclass

from dumpvault.stages.examine import Examiner

__all__ = ["SignerFacts", "signer_facts"]


@dataclass(frozen=True, slots=True)
class SignerFacts:
    """One of the keys that the header lets sign, and what it has signed that counts and verifies.

    ``objections`` are why its signatures do not count, if they do not. ``stock_checkable`` says that OpenSSH's ssh-keygen
    knows its signatures, ``sidecar`` that it made the one that ssh-keygen can check here.
    """

    name: str
    keyid: str
    algorithm: str
    stock_checkable: bool
    header: bool
    commits: int
    manifest: bool
    events: int
    sidecar: bool
    objections: tuple[str, ...]

    def describe(self) -> str:
        """One line for people."""
        if not (self.header or self.commits or self.manifest or self.events):
            said = f"signs nothing that counts: {'; '.join(self.objections) or 'no signature'}"
        else:
            parts = {
                "header": self.header, f"{self.commits} commits": self.commits, "manifest": self.manifest,
                f"{self.events} events": self.events,
            }  # fmt: skip
            said = "signed " + ", ".join(part for part, there in parts.items() if there)
        stock = "ssh-keygen checks the manifest" if self.sidecar else ""
        stock = stock or ("" if self.stock_checkable else "not for ssh-keygen")
        return f"{self.name} ({self.algorithm}) {said}{f' ({stock})' if stock else ''}"


def signer_facts(examiner: Examiner) -> list[SignerFacts]:
    """The header's signers, in its order, by the signatures that were read."""
    found = []
    for signer in examiner.header.signers:
        mine = {name: one for name, all_ in examiner.signatures.items() for one in all_ if one.keyid == signer.keyid}
        good = [name for name, one in mine.items() if one.counts and one.verified]
        found.append(
            SignerFacts(
                name=examiner.trust.principal(signer.keyid),
                keyid=signer.keyid,
                algorithm=signer.algorithm.name,
                stock_checkable=signer.algorithm.stock,
                header="vault.dsse.json" in good,
                commits=sum(name.startswith("commits/") for name in good),
                manifest="manifest.dsse.json" in good,
                events=sum(name.startswith("events/") for name in good),
                sidecar=examiner.sidecar_signer == signer,
                objections=tuple(sorted({one.objection for one in mine.values() if one.objection})),
            )
        )
    return found
