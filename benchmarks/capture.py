"""Capture against the tools people use instead, in one run on one machine: rates, ratios and peak memory.

    python benchmarks/capture.py [--mib 2048] [--runs 3] [--directory DIR]

Every command reads the same file from the page cache and ends with its output synced. Rounds go through all commands
in turn, so that a machine that slows down slows them all; the table gives medians, and ratios to zstd | age.
Needs age and zstd beside dumpvault.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from time import perf_counter

import memory


def run(command: list[str], env: dict[str, str]) -> tuple[float, int]:
    """Seconds and the largest process's peak resident memory in bytes, our own children only."""
    began = perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - began
    if status:
        sys.exit(f"failed ({status}): {' '.join(command)}")
    return seconds, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", help="where to work; a directory on the disk to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        measure(work, options.mib, options.runs)


def measure(work: str, mib: int, runs: int) -> None:
    env = os.environ | {"DUMPVAULT_HOME": f"{work}/site"}
    source = f"{work}/vmcore"
    # In a process of its own: a child's peak memory begins with what its parent held when it forked.
    subprocess.run([sys.executable, memory.__file__, source, str(mib)], check=True)
    os.sync()

    def quietly(*command: str) -> str:
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()

    for arguments in ("init", "keys new recipient r --unprotected", "keys new signer s --unprotected"):
        quietly("dumpvault", *arguments.split())
    quietly("age-keygen", "-o", f"{work}/age.key")
    recipient = quietly("age-keygen", "-y", f"{work}/age.key")

    def shell(line: str) -> list[str]:
        return ["bash", "-c", f"set -o pipefail; {line} && sync {work}/out"]

    def capture(how: str) -> list[str]:
        base = f"dumpvault capture {source} --store {work}/store --recipient r --signer s --jobs 2 --compress"
        return [*base.split(), how]

    commands = {
        "cp": shell(f"cp {source} {work}/out"),
        "age": shell(f"age -r {recipient} -o {work}/out {source}"),
        "zstd -1 -T2 | age": shell(f"zstd -q -1 -T2 -c {source} | age -r {recipient} > {work}/out"),
        "dumpvault none": capture("none"),
        "dumpvault zstd:1": capture("zstd:1"),
        "dumpvault auto": capture("auto"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, int] = dict.fromkeys(commands, 0)
    stored: dict[str, int] = {}
    for _ in range(runs):
        for name, command in commands.items():
            subprocess.run(["cat", source], check=True, stdout=subprocess.DEVNULL)
            seconds, peak = run(command, env)
            times[name].append(seconds)
            peaks[name] = max(peaks[name], peak)
            out = f"{work}/store" if name.startswith("dumpvault") else f"{work}/out"
            stored[name] = total(out)
            shutil.rmtree(f"{work}/store", ignore_errors=True)
            if os.path.exists(f"{work}/out"):
                os.unlink(f"{work}/out")
            os.sync()
    base = times["zstd -1 -T2 | age"]
    print(f"{mib} MiB, {os.cpu_count()} processors, {runs} rounds, medians")
    print(f"{'command':<20} {'seconds':>8} {'GB/s':>6} {'x zstd|age':>11} {'stored MiB':>11} {'peak MiB':>9}")
    for name, taken in times.items():
        seconds = statistics.median(taken)
        ratio = statistics.median(b / t for b, t in zip(base, taken, strict=True))
        rate = mib * 2**20 / seconds / 1e9
        print(
            f"{name:<20} {seconds:>8.2f} {rate:>6.2f} {ratio:>11.2f} {stored[name] / 2**20:>11.0f} {peaks[name] / 2**20:>9.1f}"
        )


def total(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(where, name)) for where, _, names in os.walk(path) for name in names)


if __name__ == "__main__":
    main()
