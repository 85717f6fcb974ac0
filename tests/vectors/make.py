"""Makes the vault vectors beside this file. A case that is there is never remade.

    python tests/vectors/make.py

Each case is a folder: ``source`` (the bytes that must come back), ``recipient.key`` (unprotected private half),
``allowed_signers``, ``case.json`` (vault id, and what a reader must find), and ``store/``, the vault's objects; of a
flattened stream also ``dump``, what it describes. A vault under dual control has no ``recipient.key`` but ``request.json``,
``approvals/``, ``onetime/``, the private halves of the request's keys, and in ``case.json`` the ``moment`` to judge at.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import struct
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from dumpvault.cli import main as command
from dumpvault.errors import Incomplete
from dumpvault.flows.approving import approve, read_asked
from dumpvault.flows.capture import CaptureRequest, capture
from dumpvault.flows.keys import new_recipient, new_signer
from dumpvault.flows.requesting import make_request
from dumpvault.flows.site import Site, init_site
from dumpvault.flows.verify import verify
from dumpvault.formats import elf
from dumpvault.formats.sshkey import SigningKey
from dumpvault.stages.onetime import OneTimeKeys

HERE = Path(__file__).parent


def memory(rng: random.Random, pages: int) -> bytes:
    """Pages of zeros, text, noise and one repeated byte, in runs of 16, the last run cut in half."""
    kinds = (bytes(65536), b"the quick brown fox " * 3277, rng.randbytes(65536), b"\xaa" * 65536)
    data = b"".join(kinds[i % 4][:65536] for i in range(-(-pages // 16)))
    return data[: pages * 4096 - 2048]


def core(bits: int, endian: str, data: bytes) -> bytes:
    """A core with one note and ``data`` in two segments that are not in file order."""
    note = struct.pack("<III" if endian == "little" else ">III", 11, 8, 0) + b"VMCOREINFO\0\0" + b"SIZE=1\n\0"
    half = len(data) // 2 // 4096 * 4096
    segments = [
        (elf.PT_NOTE, 4096, 0, len(note)),
        (elf.PT_LOAD, 8192 + half, 1 << 20, len(data) - half),
        (elf.PT_LOAD, 8192, 1 << 30, half),
    ]
    head = elf.write_headers(segments, bits=bits, endian=endian, machine=62 if endian == "little" else 20)
    return head.ljust(4096, b"\0") + note.ljust(4096, b"\0") + data


def flattened(rng: random.Random) -> tuple[bytes, bytes]:
    """A stream of records that seek back, overlap, cross regions of 32 KiB in data and in their 16 bytes, or leave a hole,
    with a byte behind its end; and its dump."""
    sizes = (5000, 24000, 7, 40000, 4090, 1, 12345, 8628, 9000)  # the last one's 16 bytes begin 9 before a region ends
    targets = (0, 70000, 5000, 8192, 60000, 4095, 100000, 90000, 66000)
    out = (b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)).ljust(4096, b"\0")
    dump = bytearray(112345)
    for target, size in zip(targets, sizes, strict=True):
        data = rng.choice((bytes(size), rng.randbytes(size), b"\xff" * size))
        out += struct.pack(">QQ", target, size) + data
        dump[target : target + size] = data
    assert len(out) == 3 * 32768 - 9 + 16 + 9000
    return out + b"\xff" * 16 + b"!", bytes(dump)


def make(
    name: str,
    suite: str,
    source: bytes,
    compress: str,
    region_size: int,
    *,
    finished: bool = True,
    signers: tuple[str, ...] = ("ed25519",),
) -> None:
    folder = HERE / name
    if folder.exists():
        return
    folder.mkdir()
    (folder / "source").write_bytes(source)
    with tempfile.TemporaryDirectory() as work:
        site = Site.load({"DUMPVAULT_HOME": work})
        init_site(site)
        new_recipient(site, "vector", suite, None)
        names = {"collector" if kind == "ed25519" else f"collector-{kind}": kind for kind in signers}
        for signer, kind in names.items():
            new_signer(site, signer, "collector", None, kind)
        os.chdir(folder)
        request = CaptureRequest(
            source="source", recipients=("vector",), signers=tuple(names), compress=compress, region_size=region_size,
            host="vector.example", jobs=1,
        )  # fmt: skip
        result = capture(site, request, lambda done, total: None, lambda vault: None)
        shutil.copytree(site.store_url, folder / "store")
        shutil.copy(site.trust.private_path("vector"), folder / "recipient.key")
        shutil.copy(site.trust.allowed_signers_path, folder / "allowed_signers")
    if not finished:
        for left in ("manifest.dsse.json", "manifest.json", "manifest.json.sig"):
            (folder / "store" / "vaults" / result.vault / left).unlink()
    case = {"finished": finished, "regions": result.manifest.totals.regions, "size": len(source), "vault": result.vault}
    (folder / "case.json").write_text(json.dumps(case, indent=2, sort_keys=True) + "\n")


def make_eventful(name: str, source: bytes) -> None:
    """Two attempts: stopped and ended, adopted and gone on with; two recipients, a bad page, releases and outcomes."""
    folder = HERE / name
    if folder.exists():
        return
    folder.mkdir()
    bad = 12 * 4096  # reads as zeros
    (folder / "source").write_bytes(source[:bad] + bytes(4096) + source[bad + 4096 :])
    with tempfile.TemporaryDirectory() as work:
        site = Site.load({"DUMPVAULT_HOME": work})
        init_site(site)
        new_recipient(site, "vector", "xwing", None)
        new_recipient(site, "second", "mlkem1024", None)
        new_signer(site, "collector@vector.example", "collector", None)
        os.chdir(folder)
        (Path(work) / "sys/kernel").mkdir(parents=True)
        end = (1 << 20) + len(source) - 8192
        areas = f"DUMP:{end - 16384:#x}-0x4000, {1 << 20:#x}-{end - 16384 - (1 << 20):#x}:"
        (Path(work) / "sys/kernel/release_region").write_text(
            f"CPU:{end - 20480:#x}-0x800: HPTE:{end - 18432:#x}-0x800: {areas}"
        )
        request = CaptureRequest(
            source="source", recipients=("vector", "second"), signers=("collector@vector.example",), compress="zstd:1",
            region_size=32768, host="vector.example", jobs=1, release="phyp", vmcore="source", sysfs=f"{work}/sys",
        )  # fmt: skip

        def stop(done: int, total: int | None) -> None:
            if done > 65536:
                os.kill(os.getpid(), signal.SIGTERM)

        whole = os.preadv

        def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
            if offset <= bad < offset + len(buffers[0]):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return whole(fd, buffers, offset)

        os.preadv = preadv  # type: ignore[assignment]
        with suppress(Incomplete):
            capture(site, request, stop, lambda vault: None)
        result = capture(site, request, lambda done, total: None, lambda vault: None)
        os.preadv = whole
        shutil.copytree(site.store_url, folder / "store")
        shutil.copy(site.trust.private_path("vector"), folder / "recipient.key")
        shutil.copy(site.trust.allowed_signers_path, folder / "allowed_signers")
    case = {"finished": True, "regions": result.manifest.totals.regions, "size": len(source), "vault": result.vault}
    (folder / "case.json").write_text(json.dumps(case, indent=2, sort_keys=True) + "\n")


def make_shared(name: str, source: bytes) -> None:
    """2 of 3 custodians with keys of two suites, a request, and the approvals of two of them."""
    folder = HERE / name
    if folder.exists():
        return
    (folder / "approvals").mkdir(parents=True)
    (folder / "onetime").mkdir()
    (folder / "source").write_bytes(source)
    with tempfile.TemporaryDirectory() as work:
        site = Site.load({"DUMPVAULT_HOME": work})
        init_site(site)
        for custodian, suite in (("alice", "x25519"), ("bob", "p384"), ("carol", "x25519")):
            new_recipient(site, custodian, suite, None, "custodians")
            new_signer(site, f"{custodian}-signs", "custodian", None)
        new_signer(site, "collector", "collector", None)
        new_signer(site, "analyst", "analyst", None)
        os.chdir(folder)
        request = CaptureRequest(
            source="source", recipients=(), signers=("collector",), compress="zstd:1", region_size=65536,
            host="vector.example", jobs=1, quorum="2of3:alice,bob,carol",
        )  # fmt: skip
        result = capture(site, request, lambda done, total: None, lambda vault: None)
        store, trust = site.store(), site.trust.allowed_signers()
        report = verify(store, result.vault, trust, bodies=False)
        signer = SigningKey(site.trust.private_key("analyst").secret)
        asked = make_request(report, signer, OneTimeKeys(site.requests), "a vector", "VEC-1", timedelta(days=1))
        (folder / "request.json").write_bytes(asked.data)
        for path in Path(work, "private/requests", asked.digest).glob("*.key"):
            shutil.copy(path, folder / "onetime" / path.name)
        read = read_asked(store, asked.data, "request.json", trust)
        for custodian in ("alice", "bob"):
            key = SigningKey(site.trust.private_key(f"{custodian}-signs").secret)
            _, data = approve(read, [site.trust.private_key(custodian)], key, timedelta(hours=8), lambda locked: locked)
            (folder / "approvals" / f"{custodian}.json").write_bytes(data)
        shutil.copytree(site.store_url, folder / "store")
        shutil.copy(site.trust.allowed_signers_path, folder / "allowed_signers")
    case = {
        "finished": True, "moment": asked.request.time, "regions": result.manifest.totals.regions, "size": len(source),
        "vault": result.vault,
    }  # fmt: skip
    (folder / "case.json").write_text(json.dumps(case, indent=2, sort_keys=True) + "\n")


def make_changed(name: str, source: bytes) -> None:
    """A vault that an officer changed: one recipient added, one removed, regions shredded, and others granted.

    ``recipient.key`` opens it now, ``removed.key`` did; ``vendor.key`` opens what ``grant.json`` is for. ``changed.json``
    says which regions those are. ``unrecorded.json`` is a grant that only a copy of the vault records, in an event of the
    same number.
    """
    folder = HERE / name
    if folder.exists():
        return
    folder.mkdir()
    (folder / "source").write_bytes(source)
    with tempfile.TemporaryDirectory() as work:
        os.environ["DUMPVAULT_HOME"] = work
        site = Site.load(os.environ)
        init_site(site)
        for recipient, suite in (("removed", "xwing"), ("added", "mlkem1024"), ("vendor", "p384")):
            new_recipient(site, recipient, suite, None)
        new_signer(site, "collector", "collector", None)
        new_signer(site, "officer", "officer", None)
        os.chdir(folder)
        request = CaptureRequest(
            source="source", recipients=("removed",), signer="collector", compress="zstd:1", region_size=32768,
            host="vector.example", jobs=1,
        )  # fmt: skip
        result = capture(site, request, lambda done, total: None, lambda vault: None)
        for words in (
            ["rewrap", "--add", "added"], ["grant", "--regions", "0-1,3", "--to", "vendor", "-o", "grant.json"],
            ["grant", "--store", "copy", "--regions", "0-1", "--to", "vendor", "-o", "unrecorded.json"],
            ["rewrap", "--remove", "removed"],
            ["shred", "--regions", "2-3", "--reason", "vector", "--yes", "-o", "certificate.json"],
        ):  # fmt: skip
            with suppress(SystemExit):
                command([words[0], result.vault, *words[1:]])
            if words[0] == "rewrap":
                shutil.copytree(site.store_url, "copy", dirs_exist_ok=True)
        shutil.rmtree("copy")
        shutil.copytree(site.store_url, folder / "store")
        for key, to in (("added", "recipient"), ("removed", "removed"), ("vendor", "vendor")):
            shutil.copy(site.trust.private_path(key), folder / f"{to}.key")
        shutil.copy(site.trust.allowed_signers_path, folder / "allowed_signers")
    facts = {"granted": [0, 1], "regions": result.manifest.totals.regions, "shredded": [2, 3], "vault": result.vault}
    (folder / "changed.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def main() -> None:
    rng = random.Random(20261123)
    make("elf64-xwing-zstd", "xwing", core(64, "little", memory(rng, 72)), "zstd:1", 131072)
    make("elf32-big-endian-p384-raw", "p384", core(32, "big", rng.randbytes(300000)), "none", 1 << 20)
    make("opaque-mlkem1024-zstd", "mlkem1024", b"KDUMP   " + rng.randbytes(9000) + bytes(12000), "zstd:3", 8192)
    make("opaque-mlkem1024-p384-raw", "mlkem1024-p384", rng.randbytes(16384 - 1), "none", 16384)
    make("opaque-x25519-one-byte", "x25519", b"\x00", "zstd:1", 4096)
    head = elf.write_headers([(elf.PT_NOTE, 4096, 0, 64), (elf.PT_LOAD, 8192, 1 << 20, 48 * 4096)])
    make_eventful("eventful-two-attempts", head.ljust(4096, b"\0") + bytes(4096) + memory(rng, 49)[: 48 * 4096])
    make("unfinished-xwing-zstd", "xwing", core(64, "little", memory(rng, 20)), "zstd:1", 65536, finished=False)
    stream, dump = flattened(rng)
    for codec, compress in (("raw", "none"), ("zstd", "zstd:1")):
        make(f"flattened-x25519-{codec}", "x25519", stream, compress, 32768)
        (HERE / f"flattened-x25519-{codec}" / "dump").write_bytes(dump)
    make("signed-p384-mldsa87", "p384", rng.randbytes(9000), "none", 4096, signers=("p384", "mldsa87"))
    make("signed-all-four", "x25519", b"\x01", "none", 4096, signers=("mldsa65", "ed25519", "mldsa87", "p384"))
    make("signed-mldsa65-alone", "x25519", b"\x02" * 5000, "zstd:1", 4096, signers=("mldsa65",))
    make_shared("shares-2of3", core(64, "little", memory(rng, 20)))
    make_changed("changed-by-officer", core(64, "little", memory(rng, 40)))


if __name__ == "__main__":
    main()
