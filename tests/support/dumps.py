"""A sealed dump and what it was made of, as fixtures hand it to tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.command import Home


@dataclass(frozen=True)
class SealedDump:
    """A sealed dump with a kernel log, and what was sealed."""

    home: Home
    vault: str
    source: Path

    @property
    def data(self) -> bytes:
        return self.source.read_bytes()

    @property
    def objects(self) -> Path:
        return self.home.vaults / self.vault
