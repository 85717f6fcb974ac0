"""The whole story in one minute: make a small fake vmcore with a secret in it, seal it, check it, open it, attack it."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from dumpvault.errors import VaultError
from dumpvault.flows.capture import CaptureRequest, capture
from dumpvault.flows.keys import new_recipient, new_signer
from dumpvault.flows.open import OpenRequest, open_vault
from dumpvault.flows.site import Site, init_site
from dumpvault.flows.verify import verify
from dumpvault.formats import elf
from dumpvault.formats.private_key import LockedKey, PrivateKey

__all__ = ["DemoResult", "run_demo", "write_memory"]

SECRET = b"password=correct-horse-battery-staple"
_PAGE = 4096
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Bytes of memory, bytes of the vault's objects, and whether every step came out as it must."""

    vault: str
    memory: int
    stored: int
    secrets_in_memory: int
    secrets_in_vault: int
    opened_equal: bool
    tampering_found: bool

    @property
    def good(self) -> bool:
        return self.opened_equal and self.tampering_found and self.secrets_in_memory > 0 and self.secrets_in_vault == 0


def write_memory(path: str, mib: int, seed: int = 1) -> None:
    """A vmcore of ``mib`` MiB: ELF headers, a note, and pages of zeros, text, pointers and noise in runs of 16."""
    rng = random.Random(seed)
    size = mib << 20
    note = b"\x0b\0\0\0\x0c\0\0\0\0\0\0\0VMCOREINFO\0\0OSRELEASE=0\n"
    segments = [(elf.PT_NOTE, _PAGE, 0, len(note)), (elf.PT_LOAD, 2 * _PAGE, 0x100000, size)]
    words = [rng.randbytes(rng.randint(3, 9)).hex().encode() for _ in range(512)]
    text = b" ".join(rng.choice(words) for _ in range(64 * _PAGE // 8))[: 32 * _PAGE]
    pointers = b"".join(
        (0xFFFF888000000000 + rng.randrange(1 << 30) * 8).to_bytes(8, "little") for _ in range(4 * _PAGE)
    )
    with open(path, "wb") as file:
        file.write(elf.write_headers(segments).ljust(_PAGE, b"\0") + note.ljust(_PAGE, b"\0"))
        for run in range(size // (16 * _PAGE)):
            kind = rng.random()
            at = rng.randrange(16 * _PAGE)
            if kind < 0.4:
                data = bytes(16 * _PAGE)
            elif kind < 0.6:
                data = text[at : at + 16 * _PAGE]
            elif kind < 0.8:
                at &= ~7
                data = pointers[at : at + 16 * _PAGE]
            else:
                data = rng.randbytes(16 * _PAGE)
            if run % 64 == 17:
                data = SECRET + data[len(SECRET) :]
            file.write(data)


def run_demo(directory: str | None, mib: int, say: Say) -> DemoResult:
    """Tell the story in ``directory``, or in a temporary one that is removed afterwards."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="dumpvault-demo-") as temporary:
            return _story(temporary, mib, say)
    os.makedirs(directory, exist_ok=True)
    return _story(directory, mib, say)


def _story(place: str, mib: int, say: Say) -> DemoResult:
    site = Site.load({"DUMPVAULT_HOME": os.path.join(place, "site")})
    vmcore, copy = os.path.join(place, "vmcore"), os.path.join(place, "copy")
    init_site(site)
    analyst = new_recipient(site, "analyst", "xwing", None)
    new_signer(site, "collector", "collector", None)
    say(f"A site with a recipient (analyst, {analyst.algorithm}) and a signer (collector).")

    write_memory(vmcore, mib)
    in_memory = _count(vmcore)
    say(f"A crashed machine's memory: {mib} MiB, with {SECRET.decode()!r} in it {in_memory} times.")

    began = perf_counter()
    request = CaptureRequest(source=vmcore, recipients=("analyst",), signers=("collector",))
    result = capture(site, request, lambda done, total: None, lambda vault: None)
    seconds = perf_counter() - began
    objects = os.path.join(site.store_url, "vaults", result.vault)
    paths = [os.path.join(where, name) for where, _, names in os.walk(objects) for name in names]
    stored, in_vault = sum(map(os.path.getsize, paths)), sum(map(_count, paths))
    regions = result.manifest.totals.regions
    say(
        f"Sealed as it was read: {regions} regions, {stored / 2**20:.1f} MiB in {seconds:.1f} s, each synced before its commit."
    )
    say(f"The secret stands in the vault {in_vault} times.")

    store, trust = site.store(), site.trust.allowed_signers()
    report = verify(store, result.vault, trust)
    say(
        f"An auditor, with no key: {report.verdict}; {len(report.examiner.commits)} commits, every block of every region."
    )

    keys: list[PrivateKey | LockedKey] = [site.trust.private_key("analyst")]
    open_vault(store, OpenRequest(result.vault, copy, keys), trust, _never, lambda done, total: None)
    equal = filecmp.cmp(vmcore, copy, shallow=False)
    say(f"The analyst opens it: {'the same bytes, bit for bit' if equal else 'NOT the same bytes'}.")

    found = _tamper(site, result.vault, paths, say)
    shutil.rmtree(objects, ignore_errors=True)
    return DemoResult(result.vault, mib << 20, stored, in_memory, in_vault, equal, found)


def _tamper(site: Site, vault: str, paths: list[str], say: Say) -> bool:
    """Flip one bit of one page and see who notices."""
    body = max((p for p in paths if p.endswith(".sealed")), key=os.path.getsize)
    os.chmod(body, 0o600)
    with open(body, "r+b") as file:
        file.seek(os.path.getsize(body) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    store, trust = site.store(), site.trust.allowed_signers()
    report = verify(store, vault, trust)
    say(f"One bit flipped on the disk: {report.verdict}. {report.findings[0].message if report.findings else ''}")
    output = os.path.join(site.home, "tampered")
    keys: list[PrivateKey | LockedKey] = [site.trust.private_key("analyst")]
    try:
        open_vault(store, OpenRequest(vault, output, keys), trust, _never, lambda done, total: None)
    except VaultError:
        say("Opening it is refused, and no file is made.")
        return report.verdict == "failed" and not os.path.exists(output)
    return False


def _never(key: LockedKey) -> PrivateKey:
    raise AssertionError(f"{key.name} is not locked")


def _count(path: str) -> int:
    """How often the secret stands in a file."""
    found, tail = 0, b""
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            piece = tail + piece
            found += piece.count(SECRET)
            tail = piece[-len(SECRET) + 1 :]
    return found
