"""The custody ledger, and the verification of vaults, against their targets; ratios in one run on one machine.

    python benchmarks/ledger.py [--entries 1000000] [--audited 100000] [--mib 2048] [--directory DIR]

Prints what an append costs on a ledger of so many entries over what it costs on an empty one, in turn; what it takes to check a
proof; entries a second of 'custody verify', with a checkpoint for each entry; and the rate of 'verify' with two jobs over that
of sha256sum on the same sealed bytes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from time import perf_counter

import memory

from dumpvault.flows.custody import Custody
from dumpvault.flows.site import Site
from dumpvault.flows.witnessing import check_proof, prove
from dumpvault.formats import jcs, merkle, tiles
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.entry import Entry, sign
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.sshkey import SigningKey

VAULT = "0" * 32
SUBJECT = (f"vaults/{VAULT}/manifest.dsse.json", "0" * 64, None)


def quietly(env: dict[str, str], *command: str) -> str:
    found = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(command, env=env | {"PATH": found}, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def custody_of(home: str) -> Custody:
    site = Site.load({"DUMPVAULT_HOME": home})
    found = Custody.of(site, site.store(), site.trust.allowed_signers())
    assert found is not None
    return found


def key(custody: Custody, start: str) -> SigningKey:
    held = next(k for k in custody.site.trust.private_keys() if k.name.startswith(start))
    assert isinstance(held, PrivateKey)
    return SigningKey(held.secret, held.algorithm)


def _write(span: tuple[str, int, int]) -> list[bytes]:
    """Entries written without syncing each: they are not what is measured. Returns their leaf hashes."""
    home, first, end = span
    custody = custody_of(home)
    actor, leaves = key(custody, "actor"), []
    for number in range(first, end):
        entry = Entry(
            event="received", role="auditor", vault=VAULT, subject=SUBJECT[0], digest=SUBJECT[1], actor="actor",
            host="bench", time=jcs.to_time(datetime.now(UTC)), ledger=custody.origin,
        )  # fmt: skip
        data = sign(entry, [actor])
        with open(f"{home}/store/ledger/entries/{number}", "xb") as file:
            file.write(data)
        leaves.append(merkle.leaf_hash(data))
    return leaves


def make(home: str, count: int, every: int) -> None:
    """A site whose ledger has ``count`` entries, with a checkpoint for every so many."""
    env = os.environ | {"DUMPVAULT_HOME": home}
    quietly(env, "dumpvault", "init", "--actor", "actor")
    if not count:
        return
    root = f"{home}/store/ledger"
    for folder in ("entries", "checkpoints"):
        os.mkdir(f"{root}/{folder}")
    custody = custody_of(home)
    log, edge = key(custody, "log@"), tiles.Edge()

    def put(name: str, data: bytes) -> None:
        os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
        with open(f"{root}/{name}", "wb") as file:
            file.write(data)

    spans = [(home, first, min(count, first + 5120)) for first in range(0, count, 5120)]
    with ProcessPoolExecutor() as pool:
        for leaves in pool.map(_write, spans):
            for leaf in leaves:
                for name, data in edge.add(leaf):
                    put(name, data)
                if edge.size % tiles.WIDTH == 0:
                    first = edge.size - tiles.WIDTH
                    whole = tiles.bundle([custody.ledger.entry(i) for i in range(first, edge.size)])
                    put(tiles.bundle_path(first // tiles.WIDTH), whole)
                if edge.size % every == 0 or edge.size == count:
                    put(f"checkpoints/{edge.size}", Checkpoint(custody.origin, edge.size, edge.root).sign(log))
    for name, data in edge.partial():
        put(name, data)
    custody.remember(Checkpoint(custody.origin, edge.size, edge.root))
    os.sync()


def timed(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return perf_counter() - began


def appends(work: str, count: int) -> None:
    make(f"{work}/empty", 0, 1)
    make(f"{work}/large", count, 1000)
    times: dict[str, list[float]] = {"empty": [], "large": []}
    for _ in range(60):  # in turn, so that a machine that slows down slows both
        for name, found in times.items():
            custody = custody_of(f"{work}/{name}")
            found.append(
                timed(lambda c=custody: c.record(event="received", role="auditor", vault=VAULT, subject=SUBJECT))  # type: ignore[misc]
            )
    empty, large = (statistics.median(times[name]) for name in ("empty", "large"))
    print(
        f"append to {count} entries: {large * 1e3:.2f} ms, to an empty ledger {empty * 1e3:.2f} ms: ratio {large / empty:.2f}"
    )
    custody = custody_of(f"{work}/large")
    proof = prove(custody, count // 3).encode()
    once = [timed(lambda: check_proof(proof, "proof", custody.trust, datetime.now(UTC))) for _ in range(20)]
    print(f"check a proof of {len(proof)} bytes out of {count}: {statistics.median(once) * 1e3:.2f} ms")


def audits(work: str, count: int) -> None:
    make(f"{work}/audited", count, 1)
    env = os.environ | {"DUMPVAULT_HOME": f"{work}/audited"}
    taken = timed(lambda: quietly(env, "dumpvault", "custody", "verify"))
    print(
        f"custody verify: {count} entries and as many checkpoints in {taken:.1f} s: {count / taken:.0f} entries a second"
    )


def vaults(work: str, mib: int) -> None:
    env = os.environ | {"DUMPVAULT_HOME": f"{work}/site"}
    source = f"{work}/vmcore"
    subprocess.run([sys.executable, memory.__file__, source, str(mib)], check=True)
    for arguments in ("init", "keys new recipient r --unprotected", "keys new signer s --unprotected"):
        quietly(env, "dumpvault", *arguments.split())
    vault = quietly(env, "dumpvault", "capture", source, "--recipient", "r", "--signer", "s")
    folder = f"{work}/site/store/vaults/{vault}/regions"
    files = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    size = sum(map(os.path.getsize, files))
    rates: dict[str, list[float]] = {"verify": [], "sha256sum": []}
    for _ in range(3):
        rates["verify"].append(size / timed(lambda: quietly(env, "dumpvault", "verify", vault, "--jobs", "2")))
        rates["sha256sum"].append(size / timed(lambda: quietly(env, "sha256sum", *files)))
    ours, theirs = (statistics.median(rates[name]) / 1e6 for name in ("verify", "sha256sum"))
    print(
        f"verify, two jobs: {ours:.0f} MB/s of {size / 1e6:.0f} MB; sha256sum: {theirs:.0f} MB/s: ratio {ours / theirs:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--audited", type=int, default=100_000)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--directory", help="where to work; a directory on the disk to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        appends(work, options.entries)
        audits(work, options.audited)
        vaults(work, options.mib)


if __name__ == "__main__":
    main()
