"""One run of the collector on a vault: begin it or go on with it, seal, settle what is left, finish."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dumpvault import __version__
from dumpvault.errors import Incomplete, Interrupted, NoKey, StoreFailed, Usage, VaultError
from dumpvault.flows.collected import put_collected
from dumpvault.flows.listing import claims, same_dump
from dumpvault.flows.sealing import Committer, Line, Stop
from dumpvault.flows.site import Site
from dumpvault.formats import jcs, vmcoreinfo
from dumpvault.formats.commit import Adopt, Ended, Outcome, Release
from dumpvault.formats.header import Header, Listed, PolicyText
from dumpvault.formats.header import Source as SourceFacts
from dumpvault.formats.keybag import Keybag, derive_kek
from dumpvault.formats.manifest import Manifest
from dumpvault.formats.policy import Policy
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sharing import Commitments
from dumpvault.formats.sshkey import CanSign
from dumpvault.model import FRAME_SIZE, Kind, Region, Store, vault_prefix
from dumpvault.ranges import Ranges
from dumpvault.stages.chain import Chain, Verified
from dumpvault.stages.journal import Journal
from dumpvault.stages.plan import kernel_first, plan_regions
from dumpvault.stages.release import Releaser
from dumpvault.stages.source import Source
from dumpvault.stages.store.contract import StoreFull

if TYPE_CHECKING:
    from dumpvault.flows.verified import Report

__all__ = ["Attempt", "CaptureRequest", "CaptureResult", "boot_id"]

_TOOL = f"dumpvault {__version__}"
#: Kept free for the keys, the commit and the end of an attempt that runs out of room, in bytes.
_RESERVE = 4 << 20
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What to capture, for whom; each of ``signers`` signs every object, by default the site's.

    ``region_size`` in bytes overrides the policy's, ``release`` its release mode; ``jobs`` are sealing threads,
    ``deadline`` is in seconds. ``vmcore`` and ``sysfs`` are this boot's own dump and where its kernel is asked.
    ``quorum`` (``2of3:alice,bob,carol``) puts custodians under dual control in the place of ``recipients``.
    """

    source: str
    recipients: tuple[str, ...]
    signers: tuple[str, ...] = ()
    store: str | None = None
    policy: str | None = None
    compress: str | None = None
    region_size: int | None = None
    jobs: int | None = None
    host: str | None = None
    release: str | None = None
    resume: str | None = None
    deadline: float | None = None
    vmcore: str = "/proc/vmcore"
    sysfs: str = "/sys"
    quorum: str | None = None


@dataclass(frozen=True, slots=True)
class CaptureResult:
    """``refused`` says what of the release interface could not be accounted for; then the exit code is 14."""

    vault: str
    store: str
    manifest: Manifest
    warnings: tuple[str, ...]
    refused: tuple[str, ...]


@dataclass(slots=True)
class Attempt:
    """One run of the collector on a vault."""

    site: Site
    store: Store
    source: Source
    keys: Sequence[CanSign]
    policy: Policy
    recipients: list[Recipient]
    compress: tuple[str, int]
    host: str
    facts: SourceFacts
    releaser: Releaser
    journal: Journal | None
    notes: list[str] = field(default_factory=list)
    #: Under dual control, how many of ``recipients``, who are custodians then, must agree.
    quorum: int | None = None
    #: What the vault's earlier attempts could not read, as file ranges.
    unread: Ranges = field(default_factory=Ranges)
    header: Header = field(init=False)
    chain: Chain = field(init=False)

    def carry_out(
        self, request: CaptureRequest, stop: Stop, progress: Progress, announce: Callable[[str], None]
    ) -> CaptureResult:
        """Steps 1 to 6 of docs/spec/durability.md, then the manifest."""
        boot = boot_id()
        durable, outcomes, adopted = self._begin(request, boot)
        announce(self.header.vault)
        vk = os.urandom(32)
        vault, digest = self.header.vault, self.chain.header_digest
        self.chain.take_over(lambda n: self._seal(vk, vault, n, digest), boot, _TOOL, _now())
        if adopted is not None:
            self.chain.append(Adopt(adopted), _now())
        kek = derive_kek(vk, vault, self.chain.attempt)
        line = Line(
            self.source, self.store, vault, self.chain.attempt, self.header.frame_size, kek, self.compress,
            self.policy.read_back, stop,
        )  # fmt: skip
        committer = Committer(line, self.chain, self.policy, self.releaser, self.journal, _now)
        committer.durable = durable if self.policy.release_unreadable else durable - self.unread
        committer.outcomes = outcomes
        jobs = request.jobs or os.cpu_count() or 1
        try:
            self.store.reserve(_RESERVE)
        except StoreFull as error:
            self.notes.append(f"{error.message}; what fits is sealed all the same")
        try:
            committer.run(self._plan(durable), jobs if self.source.seekable else 1, progress)
        except StoreFull as error:
            committer.failure = error  # a commit found no room; what was kept free serves to sign off
        self._settle(committer, stop)
        return self._finish(committer)

    def _seal(self, vk: bytes, vault: str, attempt: int, header: str) -> tuple[Keybag, Commitments | None]:
        quorum = self.header.quorum
        if quorum is None:
            return Keybag.seal(vk, self.recipients, vault, attempt, header), None
        return Keybag.seal_shares(vk, self.recipients, quorum, vault, attempt, header)

    def _begin(self, request: CaptureRequest, boot_id: str | None) -> tuple[Ranges, list[Outcome], int | None]:
        """A new vault's header, or the unfinished vault; what of the source it holds, and its adopted tip."""
        found = None
        if self._anything_to_resume(request):
            from dumpvault.flows.resuming import adopt, find_unfinished

            assert self.journal
            trust = self.site.trust.allowed_signers()
            found = find_unfinished(
                self.store,
                trust,
                self.facts,
                self.host,
                self.keyids,
                boot_id,
                self.journal.noted,
                request.resume,
                self._heal,
            )
        if found is None:
            self.header = self._new_header(request, boot_id)
            self.chain = Chain.begin(self.store, self.header, self.keys)
            return Ranges(), [], None
        examiner = found.report.examiner
        self.keys = self._same_signers(examiner.header)
        adopt(self.store, trust, found)
        self.header = examiner.header
        self.recipients = self._same_recipients(self.header)
        self.policy.check_recipients(self.recipients, self.site.trust.known())
        self.chain = Chain.resume(
            self.store,
            self.keys,
            examiner.vault,
            examiner.header_digest,
            Verified(len(examiner.commits), examiner.tip, examiner.totals, [t for _, t in examiner.attempts.values()]),
        )
        self.releaser.already(found.authorised)
        self.unread = found.unreadable
        if self.policy.text != self.header.policy.text:
            self.notes.append(
                f"the vault was begun under policy {self.header.policy.name} as its header has it; this run commits and "
                f"releases by policy {self.policy.name}, which differs"
            )
        self.notes.append(f"going on with vault {examiner.vault}, which holds {found.durable.total} bytes already")
        return found.durable, found.outcomes, len(examiner.commits) - 1 if examiner.commits else None

    def _heal(self, report: Report) -> None:
        """The sidecar of a manifest that these signers made, and were killed before they could say so to stock tools."""
        examiner = report.examiner
        if self.keyids <= set(examiner.manifest_signers) and self.keyids == examiner.header.keyids:
            keys = self._same_signers(examiner.header)
            Chain(self.store, examiner.vault, keys, examiner.header_digest).sidecar(examiner.manifest_payload)

    def _anything_to_resume(self, request: CaptureRequest) -> bool:
        """Asked first and cheaply: what resuming needs is not imported in most crash kernels."""
        if request.resume and not self.facts.identity:
            raise Usage(f"{self.source.name} cannot be resumed", "Only ELF files and /proc/vmcore can be read again.")
        if not self.journal or not self.facts.identity:
            return False
        keyids = self.keyids
        return bool(
            request.resume
            or self.journal.noted.vault
            or any(same_dump(claim, self.facts, self.host, keyids, boot_id()) for claim in claims(self.store))
        )

    def _new_header(self, request: CaptureRequest, boot_id: str | None) -> Header:
        return Header(
            vault=secrets.token_hex(16),
            created=_now(),
            tool=_TOOL,
            host=self.host,
            boot_id=boot_id,
            source=self.facts,
            region_size=request.region_size or self.policy.region_size,
            frame_size=FRAME_SIZE,
            policy=PolicyText(self.policy.name, self.policy.text),
            signers=tuple(key.signer for key in self.keys),
            recipients=tuple(Listed(r.name, r.suite.name, r.digest) for r in self.recipients),
            quorum=self.quorum,
        )

    @property
    def keyids(self) -> frozenset[str]:
        return frozenset(key.signer.keyid for key in self.keys)

    def _same_signers(self, header: Header) -> list[CanSign]:
        """The signers that the header names, in its order: what others sign would count for nobody."""
        held = {key.signer.keyid: key for key in self.keys}
        if held.keys() != header.keyids:
            raise NoKey(
                f"vault {header.vault} was begun by other signers: {', '.join(sorted(header.keyids))}",
                "Name the same ones with --signer. Nothing was written.",
            )
        return [held[signer.keyid] for signer in header.signers]

    def _same_recipients(self, header: Header) -> list[Recipient]:
        """The recipients that the header names; the new attempt's key is for them and nobody else."""
        trust = self.site.trust
        known = {r.digest: r for r in [*self.recipients, *trust.recipients(), *trust.recipients("custodians")]}
        missing = [r.name for r in header.recipients if r.digest not in known]
        if missing:
            raise NoKey(
                f"vault {header.vault} is for {', '.join(missing)}, whose public key is not at hand",
                "Import it, or begin a new vault elsewhere with --store.",
            )
        return [known[r.digest] for r in header.recipients]

    def _plan(self, durable: Ranges) -> Iterator[Region]:
        core = self.source.core
        kind: Kind = "memory" if self.source.kind == "elf" else self.source.kind
        first = Ranges()
        if core and self.source.seekable:
            first = kernel_first(core, vmcoreinfo.find(self.source.notes(), core.endian))
        return plan_regions(core, self.source.size, self.header.region_size, kind, durable=durable, first=first)

    def _settle(self, committer: Committer, stop: Stop) -> None:
        """After the workers: commit the rest; if anything went wrong, end the attempt in order and raise."""
        failure, chain = committer.failure, self.chain
        useful = f"Run the same command again to go on with it; 'dumpvault open {chain.vault} --partial' opens what is there."
        if isinstance(failure, StoreFailed) and not isinstance(failure, StoreFull):
            # A failed writer stays failed: not one more byte goes to this store, and no more memory goes back.
            raise type(failure)(
                failure.message,
                f"{failure.hint} Vault {chain.vault} is durable up to commit {chain.next - 1}. {useful}",
            )
        asked = stop.reason
        # What was kept free serves the rest: of a dump that is sealed, only signed words are left to write.
        self.store.unreserve()
        if failure is None and not asked:
            try:
                committer.commit()
                if committer.outcomes:
                    committer.commit(release=False)
                return
            except StoreFull as error:
                failure = error
        committer.commit(release=False)
        why = str(failure) if failure and not isinstance(failure, Interrupted) else f"stopped by {asked}"
        chain.append(Ended(why[:500]), _now())
        safe = f"Vault {chain.vault} holds what was sealed until then, and nothing was released after that. {useful}"
        if isinstance(failure, StoreFull):
            raise Incomplete(failure.message, f"{failure.hint} {safe}")
        if failure is None or isinstance(failure, Interrupted):
            kind = Interrupted if asked == "SIGINT" else Incomplete
            raise kind(f"stopped by {asked} before the source was read to its end", safe)
        if isinstance(failure, VaultError):
            raise type(failure)(failure.message, f"{failure.hint} {safe}")
        raise failure

    def _finish(self, committer: Committer) -> CaptureResult:
        chain = self.chain
        end, truncated = self.source.conclude(chain.totals.size)
        # A region that a shrinking file cut short may have another behind it; the hole is no dump's end.
        truncated = truncated or committer.short_at < chain.totals.size
        if self.source.changed():
            self.notes.append(
                f"{self.source.name} was written to while it was captured: the dump is of no single moment"
            )
        manifest = chain.finish(end, truncated, _now())
        refused = list(self.releaser.refused)
        holds = self._holds(chain)
        if self.releaser.at_end and holds:
            refused.append(holds)
        elif self.releaser.at_end and not truncated:
            assert self.journal is not None
            self.journal.tip(chain.vault, chain.next - 1, chain.tip)
            self.journal.state(chain.next, 0, "begun")
            result = self.releaser.perform(Release(self.releaser.method, 0, 0))
            self.journal.state(chain.next, 0, result)
            chain.released(self.releaser.method, result, _now())
            if result != "released":
                refused.append("the kernel did not accept the release")
        elif any(result == "failed" for result in committer.results):
            refused.append("the kernel did not accept every release; 'dumpvault info' shows which")
        self._collected(chain)
        return CaptureResult(chain.vault, self.store.url, manifest, tuple(self.notes), tuple(refused))

    def _collected(self, chain: Chain) -> None:
        """The ledger's entry, if the store has one: after all else, and the capture is good without it."""
        try:
            if self.store.size("ledger/ledger.json") is not None:
                manifest = self.store.get(f"{vault_prefix(chain.vault)}/manifest.dsse.json")
                put_collected(self.store, self.keys, self.host, chain.vault, manifest)
        except VaultError as error:
            self.notes.append(f"the capture is complete, and the ledger has no entry of it: {error.message}")

    def _holds(self, chain: Chain) -> str:
        """Why the policy forbids to release everything at once; empty if it does not."""
        if self.policy.hold_undescribed:
            return f"policy {self.policy.name} holds pages that no program header describes; {self.releaser.method} frees all"
        if not self.policy.release_unreadable and chain.totals.unreadable:
            unread = chain.totals.unreadable
            return f"policy {self.policy.name} holds {unread} bytes that could not be read; {self.releaser.method} frees all"
        return ""


def boot_id() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _now() -> str:
    return jcs.to_time(datetime.now(UTC))
