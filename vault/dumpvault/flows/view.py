"""What an analyst is shown of a vault: read-only files over decrypting reads. Nothing here writes plaintext anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dumpvault.errors import Incomplete
from dumpvault.flows.unlocking import Unlock, unlock_vault
from dumpvault.flows.verify import Report
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.model import Store
from dumpvault.stages.reader import CACHE, Reader

__all__ = ["View", "ViewRequest", "VirtualFile", "open_view"]


@dataclass(frozen=True, slots=True)
class VirtualFile:
    """``size`` bytes; ``read(offset, length)`` gives fewer than ``length`` bytes only at the end, or raises ``VaultError``."""

    size: int
    read: Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """``keys`` are tried in order; ``cache`` is in bytes; ``ahead`` threads read ahead.

    ``partial`` lets a damaged vault be read as far as it is good.
    """

    vault: str
    keys: Sequence[PrivateKey | LockedKey]
    cache: int = CACHE
    partial: bool = False
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """``source`` is what was captured; ``missing`` says what of it is not there."""

    report: Report
    reader: Reader
    source: VirtualFile
    missing: Incomplete | None


def open_view(store: Store, request: ViewRequest, trust: AllowedSigners, unlock: Unlock) -> View:
    """Verify and unlock a vault; an incomplete one is shown as far as it goes. Raises ``VaultError``."""

    def accept(report: Report) -> None:
        worst = report.worst()
        if worst and (not report.header_read or not (request.partial or isinstance(worst, Incomplete))):
            raise worst

    unlocked = unlock_vault(store, request.vault, request.keys, trust, unlock, accept)
    examiner = unlocked.report.examiner
    size = examiner.totals.size
    if examiner.manifest is None:
        size = max(size, examiner.header.source.size or 0)
    reader = Reader(store.get, unlocked.regions, size, examiner.header.frame_size, request.cache, request.ahead)
    missing = next((f for f in unlocked.report.findings if isinstance(f, Incomplete)), None)
    return View(unlocked.report, reader, VirtualFile(size, reader.read), missing)
