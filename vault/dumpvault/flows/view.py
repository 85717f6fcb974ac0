"""What an analyst is shown of a vault: read-only files over decrypting reads. Nothing here writes plaintext anywhere.

Containers are imported when a dump is in one: most are not, and a session should start at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dumpvault.errors import BadInput, Incomplete, VaultError
from dumpvault.flows.judging import Judge
from dumpvault.flows.recording import Opening
from dumpvault.flows.unlocking import KeyedRegion, Unlock, Unlocked, unlock_vault
from dumpvault.flows.verified import Report
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.dsse import Envelope
from dumpvault.formats.image import Absent, Image, open_image
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.model import Store
from dumpvault.stages.reader import CACHE, Reader

if TYPE_CHECKING:
    from dumpvault.flows.combining import Approvals
    from dumpvault.formats.printk import Record

__all__ = ["View", "ViewRequest", "VirtualFile", "open_view", "view_of"]

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class VirtualFile:
    """``size`` bytes; ``read(offset, length)`` gives fewer than ``length`` bytes only at the end, or raises ``VaultError``."""

    size: int
    read: Callable[[int, int], bytes]

    @classmethod
    def of(cls, data: bytes) -> VirtualFile:
        return cls(len(data), lambda offset, length: data[offset : offset + length])


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """``keys`` are tried in order, or that which ``grant`` is for; ``cache`` is in bytes; ``ahead`` threads read ahead.

    ``partial`` lets a damaged vault be read as far as it is good; ``judge`` says what policy the vault must obey, None
    asks for none. ``approvals`` open a vault under dual control. ``opening`` is the ledger's record of it.
    """

    vault: str
    keys: Sequence[PrivateKey | LockedKey]
    cache: int = CACHE
    partial: bool = False
    ahead: int = 0
    approvals: Approvals | None = None
    judge: Judge | None = None
    grant: Envelope | None = None
    opening: Opening | None = None


class View:
    """One vault, open. ``source`` is what was captured; ``missing`` says what of it is not there, if anything."""

    def __init__(self, report: Report, reader: Reader, opening: Opening | None = None) -> None:
        self.report = report
        self._opening = opening
        self.reader = reader
        self.source = VirtualFile(reader.size, reader.read)
        self.missing = next((f for f in report.findings if isinstance(f, Incomplete)), report.closed)

    @cached_property
    def dump(self) -> VirtualFile:
        """What analysis reads: the dump that a flattened stream makes; of an incomplete ELF core, the core of what is there.

        Raises ``VaultError``.
        """
        kind = self.report.examiner.header.source.kind
        if kind == "flattened":
            from dumpvault.formats.flattened import Reassembled

            whole = Reassembled(self.reader.indexes(), self.reader.read)
            return VirtualFile(whole.size, whole.read)
        if self.missing is None or kind != "elf":
            return self.source
        from dumpvault.formats import elf
        from dumpvault.formats.available import AvailableCore

        try:
            core = AvailableCore(self.source.read, self.reader.available)
        except elf.MalformedElf as error:
            raise BadInput(f"the source's ELF headers cannot be used: {error}", "'dumpvault open' writes it.") from None
        return VirtualFile(core.size, core.read)

    @property
    def dump_name(self) -> str:
        """The name under which a mount shows ``dump``."""
        elf_of_what_is_there = self.dump is not self.source and self.report.examiner.header.source.kind == "elf"
        return "vmcore-available" if elf_of_what_is_there else "vmcore"

    @cached_property
    def image(self) -> Image:
        """The dump as physical memory. Raises ``BadInput`` for anything but an ELF core or a kdump-compressed dump."""
        return open_image(self.dump.read, self.dump.size)

    def kernel_log(self, warn: Warn) -> Iterator[Record]:
        """The kernel log's records; raises ``VaultError`` where there are none to be read."""
        from dumpvault.formats.printk import kernel_log

        try:
            yield from kernel_log(self.image, warn)
        except Absent as error:
            if self.missing is None:
                raise
            raise Incomplete(
                f"what finds the kernel log is not there: physical address {error.address:#x}",
                f"The vault is incomplete ({self.missing.message}). What it has can be mounted.",
            ) from None

    def kernel_log_lines(self, warn: Warn) -> Iterator[bytes]:
        """The same as lines, as ``dmesg`` prints them."""
        from dumpvault.formats.printk import format_record

        return map(format_record, self.kernel_log(warn))

    def files(self, warn: Warn) -> dict[str, VirtualFile]:
        """What a mount shows, by name. ``warn`` is told what is left out, and why."""
        flattened = self.report.examiner.header.source.kind == "flattened"
        files = {"vmcore.flat" if flattened else "vmcore": self.source}
        if self.report.examiner.manifest:
            files["manifest.json"] = VirtualFile.of(self.report.examiner.manifest_payload)
        try:
            files[self.dump_name] = self.dump
            if self.image.vmcoreinfo:
                files["vmcoreinfo"] = VirtualFile.of(self.image.vmcoreinfo)
            files["dmesg.txt"] = VirtualFile.of(b"".join(self.kernel_log_lines(warn)))
        except VaultError as error:
            left_out = [name for name in ("vmcore", "vmcoreinfo", "dmesg.txt") if name not in files]
            warn(f"no {' and no '.join(left_out)}: {error.message}")
        return files

    def close(self) -> None:
        self.reader.close()
        if self._opening:
            read = [r for r in self.reader.touched_regions() if isinstance(r, KeyedRegion)]
            self._opening.end(self.reader.fetched, [(region.attempt, region.record) for region in read])


def open_view(store: Store, request: ViewRequest, trust: AllowedSigners, unlock: Unlock) -> View:
    """Verify and unlock a vault; an incomplete one is shown as far as it goes. Raises ``VaultError``."""

    def accept(report: Report) -> None:
        worst = report.worst()
        if report.refused and request.partial:
            raise report.refused
        if worst and (not report.header_read or not (request.partial or isinstance(worst, Incomplete))):
            raise worst

    record = request.opening
    try:
        unlocked = unlock_vault(
            store, request.vault, request.keys, trust, unlock, accept, request.approvals, request.judge, request.grant,
            record.begin if record else lambda report: None,
        )  # fmt: skip
    except BaseException:
        if record:
            record.end(0, ())
        raise
    return view_of(store, unlocked, request.cache, request.ahead, record)


def view_of(
    store: Store, unlocked: Unlocked, cache: int = CACHE, ahead: int = 0, opening: Opening | None = None
) -> View:
    """What is shown of a vault that is unlocked already."""
    examiner = unlocked.report.examiner
    size = examiner.totals.size
    if examiner.manifest is None:
        size = max(size, examiner.header.source.size or 0)
    reader = Reader(store.get, unlocked.regions, size, examiner.header.frame_size, cache, ahead)
    return View(unlocked.report, reader, opening)
