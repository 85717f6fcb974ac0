"""A capture rehearsed: a site, a machine, a disk in memory; every step recorded; every state judged.

``Judge`` is what the proofs believe. It looks at one state of a disk and at what the machine has released, and uses the
product's own readers, which trust nothing but a recipient's key and the list of signers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from dumpvault.errors import VaultError
from dumpvault.flows import open as opening
from dumpvault.flows import unlocking
from dumpvault.flows.capture import CaptureRequest, CaptureResult, capture
from dumpvault.flows.keys import new_recipient, new_signer
from dumpvault.flows.listing import claims
from dumpvault.flows.site import Site, init_site
from dumpvault.flows.unlocking import KeyedRegion
from dumpvault.flows.verified import Report, require_structure
from dumpvault.flows.verify import verify
from dumpvault.formats.commit import Regions
from dumpvault.model import body_path, keybag_path, keys_path, vault_prefix
from dumpvault.ranges import Ranges
from dumpvault.stages.unlock import unlock_attempt
from support.calls import DISK, RUN, Calls, World, installed
from support.disk import ROOT, Disk, Folder
from support.machine import Machine

__all__ = ["Judge", "Rehearsal", "Seen", "noted"]

STORE = f"{DISK}/srv/dumps/store"


@dataclass
class Rehearsal:
    """One site with a recipient and a signer, and what it captures of which machine."""

    home: Path
    region_size: int = 32 << 10
    commit_regions: int = 2
    jobs: int = 1
    release: str = "phyp"
    read_back: str = "none"
    own: bool = True

    def __post_init__(self) -> None:
        self.site = Site.load({"DUMPVAULT_HOME": str(self.home), "DUMPVAULT_STORE": STORE, "DUMPVAULT_RUN": RUN})
        self.vmcore = str(self.home / "vmcore")
        self.sysfs = self.home / "sys"
        if not self.home.exists():
            with mock.patch.object(Site, "store"):
                init_site(self.site)
            new_recipient(self.site, "analyst", "x25519", None)
            new_signer(self.site, "collector", "collector", None)
            Path(self.vmcore).touch()
            (self.sysfs / "kernel").mkdir(parents=True)

    def world(self, machine: Machine) -> World:
        """A disk whose directories above the store somebody made and did not sync."""
        (self.sysfs / "kernel/release_region").write_text(machine.release_region_text())
        (self.sysfs / "kernel/fadump_release_mem").touch()
        disk = Disk()
        disk.make(disk.make(ROOT, "srv", Folder()), "dumps", Folder())
        return World(disk, Disk(), machine)

    def calls(self, world: World, *, recording: bool = True) -> Calls:
        names = (self.sysfs / "kernel/release_region", self.sysfs / "kernel/fadump_release_mem")
        return Calls(self.vmcore, *map(str, names), world, recording)

    @contextmanager
    def policy(self) -> Iterator[None]:
        """The shipped policy, but with commits as often as a small machine needs them, and never by the clock."""
        shipped = self.site.policy("baseline")
        changed = dataclasses.replace(
            shipped,
            commit_bytes=self.commit_regions * self.region_size,
            commit_seconds=1e9,
            read_back=self.read_back,
        )
        with mock.patch.object(Site, "policy", lambda site, name=None: changed):
            yield

    def capture(self, calls: Calls) -> CaptureResult | BaseException:
        """One run of the collector; what it raised, if it did."""
        request = CaptureRequest(
            source=self.vmcore, recipients=("analyst",), signers=("collector",), region_size=self.region_size,
            jobs=self.jobs, host="crashed", release=self.release, vmcore=self.vmcore if self.own else "/nowhere",
            sysfs=str(self.sysfs),
        )  # fmt: skip
        with installed(calls), self.policy():
            try:
                return capture(self.site, request, lambda done, total: None, lambda vault: None)
            except VaultError as error:
                return error


@dataclass
class Seen:
    """What a disk's vaults give to a recipient: file ranges that open to the right bytes, and everything amiss."""

    opened: Ranges = field(default_factory=Ranges)
    intact: bool = False
    #: The number of the last commit.
    tip: int = -1
    #: Releases as commit and index: what was authorised, and what a commit says became of it.
    authorised: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    told: dict[tuple[int, int], str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


class Judge:
    """Judges states by the bytes that ``pristine`` memory held. Region plaintexts are remembered by all they depend on."""

    def __init__(self, rehearsal: Rehearsal, pristine: bytes) -> None:
        self._rehearsal = rehearsal
        self._pristine = pristine
        self._trust = rehearsal.site.trust.allowed_signers()
        self._key = rehearsal.site.trust.private_key("analyst")
        self._plain: dict[tuple[object, ...], bytes] = {}
        self._seen: dict[frozenset[tuple[str, bytes]], Seen] = {}

    @property
    def distinct(self) -> int:
        """How many different disks were judged."""
        return len(self._seen)

    def look(self, disk: Disk) -> Seen:
        key = frozenset(disk.tree().items())
        if key not in self._seen:
            self._seen[key] = self._look(disk)
        return self._seen[key]

    def released(self, disk: Disk, machine: Machine, run: Disk) -> list[str]:
        """Invariants A and B on this disk, for everything that the machine has released so far: what does not hold."""
        seen = self.look(disk)
        found = [f"A: page {number} was freed and does not open" for number in machine.lost(seen.opened)]
        tip, begun = noted(run)
        for write in dict.fromkeys(machine.kernel.writes):
            keys = [key for key, release in seen.authorised.items() if release == write]
            if not keys:
                found.append(f"B: the release of {write[0]:#x}, {write[1]:#x} stands in no commit")
            elif not any(key in begun and key[0] <= tip for key in keys):
                found.append(f"B: the release of {write[0]:#x}, {write[1]:#x} was not noted in /run before")
        for key, result in seen.told.items():
            if (result == "released") > (seen.authorised[key] in machine.kernel.writes):
                found.append(f"B: release {key} is told to be done and was not")
        kernel = machine.kernel
        if kernel.double_released or kernel.below or kernel.beyond or kernel.runaway or kernel.rejected:
            found.append(f"B: {kernel}")
        return found

    def finished(self, world: World, *, disk: Disk | None = None) -> list[str]:
        """After a capture that reported success: what does not hold, on its disk or on ``disk``."""
        disk, machine = disk or world.disk, world.machine
        seen = self.look(disk)
        missing = Ranges([(0, machine.size)]) - seen.opened - machine.unreadable.widened(machine.layout.page)
        found = self.released(disk, machine, world.run) + seen.violations
        found += ["end: the vault is not intact"] if not seen.intact else []
        found += [f"end: {missing} does not open, though the vault is finished"] if missing else []
        found += [f"end: what became of release {key} is not told" for key in seen.authorised.keys() - seen.told]
        return found

    def _look(self, disk: Disk) -> Seen:
        seen = Seen()
        calls = self._rehearsal.calls(World(disk, Disk(), None), recording=False)  # type: ignore[arg-type]
        with installed(calls):
            try:
                store = self._rehearsal.site.store()
            except VaultError:
                return seen  # the crash came before there was one
            for claim in claims(store):
                report = verify(store, claim.vault, self._trust, bodies=False, jobs=1)
                self._vault(store, report, seen)
        return seen

    def _vault(self, store: opening.Store, report: Report, seen: Seen) -> None:
        prefix = vault_prefix(report.vault)
        there = {name[len(prefix) + 1 :] for name in store.list(prefix)}
        if not report.header_read:
            seen.violations += [f"order: {report.findings[0].message}"] if there else []
            return
        examiner = report.examiner
        seen.tip = max(seen.tip, len(examiner.commits) - 1)
        for commit in examiner.commits:
            if isinstance(commit.body, Regions):
                for i, release in enumerate(commit.body.releases):
                    seen.authorised[commit.number, i] = (release.start, release.length)
                seen.told |= {(outcome.commit, outcome.release): outcome.result for outcome in commit.body.outcomes}
        seen.violations += self._order(store, report, there)
        if examiner.manifest and seen.authorised.keys() - seen.told:
            seen.violations.append("order: the manifest is there, and what became of a release is not told")
        try:
            require_structure(report, partial=True)
            digest = examiner.header_digest
            keks = {a: unlock_attempt(bag, self._key, digest) for a, bag in report.keybags.items()}  # type: ignore[arg-type]
            regions = list(unlocking._keyed_regions(store, report, keks))
        except VaultError as error:
            seen.violations.append(f"order: {error.message}")
            return
        opened = []
        for item in regions:
            record = item.record
            try:
                data = self._open(store, report, item)
            except VaultError as error:
                seen.violations.append(f"order: {error.message}")
                continue
            holes = Ranges((hole.offset, hole.end) for hole in record.unreadable)
            for start, end in Ranges([(record.offset, record.end)]) - holes:
                if data[start - record.offset : end - record.offset] == self._pristine[start:end]:
                    opened.append((start, end))
                else:
                    seen.violations.append(f"genuine: {start:#x} to {end:#x} opens to bytes that never were there")
        seen.opened |= Ranges(opened)
        seen.intact = seen.intact or report.verdict == "intact"

    def _open(self, store: opening.Store, report: Report, item: KeyedRegion) -> bytes:
        """A region's plaintext, by the opening flow itself."""
        key = (report.vault, item.attempt, item.record, item.dek(), store.get(item.path))
        if key not in self._plain:
            sink = _Memory(item.record.offset)
            opening._Opening(store, report, lambda done, total: None, False)._unseal(item, sink)
            self._plain[key] = bytes(sink.data)
        return self._plain[key]

    def _order(self, store: opening.Store, report: Report, there: set[str]) -> list[str]:
        """Section 5's order, read off what is there: each thing vouches for what had to be durable before it."""
        examiner = report.examiner
        found = [f"order: {finding.message}" for finding in report.findings if not _unfinished(finding.message)]
        for attempt in examiner.attempts:
            if keybag_path(attempt) not in there:
                found.append(f"order: attempt {attempt} has begun and its keybag is missing")
        for name in there:
            kind, _, rest = name.partition("/")
            attempt = rest.partition("/")[0]
            if kind == "regions" and keybag_path(int(attempt)) not in there:
                found.append(f"order: {name} is there, and the keybag of its attempt is not")
            if kind == "keys":
                try:
                    keys = json.loads(store.get(f"{vault_prefix(report.vault)}/{name}"))["keys"]
                except ValueError:
                    found.append(f"order: {name} has its name and not its bytes")
                    continue
                bodies = {body_path(int(attempt), key["region"]) for key in keys}
                found += [f"order: {name} is there and {body} is not" for body in bodies - there]
        for commit in examiner.commits:
            if isinstance(commit.body, Regions):
                names = [body_path(commit.attempt, record.index) for record in commit.body.regions]
                names += [keys_path(commit.attempt, commit.number)] if commit.body.regions else []
                found += [
                    f"order: commit {commit.number} is there and {name} is not" for name in names if name not in there
                ]
        return found


@dataclass
class _Memory:
    base: int
    data: bytearray = field(default_factory=bytearray)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.data += bytes(offset - self.base - len(self.data)) + data

    def zeros(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))


def _unfinished(message: str) -> bool:
    """Whether a finding says no more than that the vault has no end yet, or not all of its sidecar."""
    return message == "manifest.dsse.json: missing" or message.startswith(
        ("commits: ", "commits/0.dsse.json: missing", "manifest.json: missing", "manifest.json.sig: missing")
    )


def noted(run: Disk) -> tuple[int, set[tuple[int, int]]]:
    """The last commit that /run names, and the releases it says were begun."""
    tip, begun = -1, set()
    for name, data in run.tree().items():
        for line in data.splitlines() if name.endswith(".journal") else ():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # torn
            if "commit" in entry:
                tip = max(tip, entry["commit"])
            else:
                begun.add((entry["of"][0], entry["of"][1]))
    return tip, begun
