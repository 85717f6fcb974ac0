"""Reading a sealed dump at random: the reader warm and cold, mount beside open, drgn beside drgn, what dmesg touches.

    python benchmarks/reading.py [--mib 2048] [--vmcore FILE --vmlinux FILE] [--runs 3] [--directory DIR]

Without --vmcore a dump is generated, and drgn and dmesg are left out. "cold" is: nothing in the reader's cache, and
the sealed objects dropped from the page cache before every round. Ratios are of commands that ran in the same round.
Needs root or fusermount3, and drgn for its part.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, sleep

import memory

from dumpvault.flows.listing import find_vault
from dumpvault.flows.site import Site
from dumpvault.flows.view import View, ViewRequest, open_view

PAGE = 4096
SCRIPT = """
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg
tasks = [(task.pid.value_(), task.comm.string_()) for task in for_each_task(prog)]
print(len(tasks), hash(tuple(tasks)), len(get_dmesg(prog)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--vmcore", help="a real dump instead of a generated one")
    parser.add_argument("--vmlinux", help="its kernel with debug symbols")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", help="where to work; a directory on the disk to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        Benchmark(work, options).run()


class Benchmark:
    def __init__(self, work: str, options: argparse.Namespace) -> None:
        self.work = work
        self.options = options
        self.env = os.environ | {"DUMPVAULT_HOME": f"{work}/site", "PYTHONHASHSEED": "0"}
        os.environ["DUMPVAULT_HOME"] = f"{work}/site"

    def run(self) -> None:
        source = self.options.vmcore or f"{self.work}/vmcore"
        if not self.options.vmcore:
            subprocess.run([sys.executable, memory.__file__, source, str(self.options.mib)], check=True)
        for arguments in ("init", "keys new recipient r --unprotected", "keys new signer s --unprotected"):
            self.call("dumpvault", *arguments.split())
        print(f"{os.cpu_count()} processors, {self.options.runs} rounds, medians")
        for how in ("auto", "zstd:1", "none"):
            vault = self.call("dumpvault", "capture", source, "--recipient", "r", "--signer", "s", "--compress", how)
            os.sync()
            print(f"--compress {how}")
            self.reader(vault)
            self.sequential(vault)
        if self.options.vmlinux:
            self.drgn(vault, source)
            self.dmesg(vault)

    def call(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True).stdout.strip()

    def view(self, vault: str) -> View:
        site = Site.load(os.environ)
        request = ViewRequest(find_vault(site.store(), vault), site.trust.private_keys())
        return open_view(site.store(), request, site.trust.allowed_signers(None), lambda key: sys.exit(key.name))

    def drop(self) -> None:
        for where, _, names in os.walk(f"{self.work}/site/store"):
            for name in names:
                fd = os.open(os.path.join(where, name), os.O_RDONLY)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def reader(self, vault: str) -> None:
        """4 KiB reads at random offsets, each counted once."""
        chance = random.Random(1)

        def cold(threads: int) -> float:
            view = self.view(vault)
            pages = view.source.size // PAGE
            offsets = [chance.randrange(pages) * PAGE for _ in range(3000)]
            self.drop()
            began = perf_counter()
            if threads == 1:
                for offset in offsets:
                    view.reader.read(offset, PAGE)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(
                        pool.map(lambda part: [view.reader.read(o, PAGE) for o in part], [offsets[::2], offsets[1::2]])
                    )
            return len(offsets) / (perf_counter() - began)

        def warm() -> float:
            view = self.view(vault)
            span = min(view.source.size, 128 << 20) // PAGE
            offsets = [chance.randrange(span) * PAGE for _ in range(100_000)]
            for offset in range(0, span * PAGE, 65536):
                view.reader.read(offset, 1)
            began = perf_counter()
            for offset in offsets:
                view.reader.read(offset, PAGE)
            return len(offsets) / (perf_counter() - began)

        for name, rate in (("cold", lambda: cold(1)), ("cold, 2 threads", lambda: cold(2)), ("warm", warm)):
            print(f"  4 KiB reads, {name:<16} {self.median(rate):>9.0f} a second")
        print(f"  peak resident memory     {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:>9.0f} MiB")

    def sequential(self, vault: str) -> None:
        """The same bytes by ``open`` into a file, by ``open -o -``, and by ``cat`` through ``mount``."""
        size = self.view(vault).source.size
        point = f"{self.work}/mnt"
        os.makedirs(point, exist_ok=True)

        def opened() -> float:
            return size / self.seconds(f"dumpvault open {vault} -o {self.work}/out --force")

        def streamed() -> float:
            return size / self.seconds(f"dumpvault open {vault} -o - > /dev/null")

        def mounted() -> float:
            process = subprocess.Popen(["dumpvault", "mount", vault, point], env=self.env, stderr=subprocess.DEVNULL)
            try:
                while not os.path.exists(f"{point}/vmcore"):
                    sleep(0.01)
                return size / self.seconds(f"cat {point}/vmcore > /dev/null")
            finally:
                process.send_signal(signal.SIGINT)
                process.wait()

        rates: dict[str, list[float]] = {"open": [], "open -o -": [], "mount": []}
        for _ in range(self.options.runs):
            for name, measure in zip(rates, (opened, streamed, mounted), strict=True):
                self.drop()
                rates[name].append(measure())
                if os.path.exists(f"{self.work}/out"):
                    os.unlink(f"{self.work}/out")
        for name, found in rates.items():
            ratio = statistics.median(r / o for r, o in zip(found, rates["open"], strict=True))
            print(f"  sequential, {name:<12} {statistics.median(found) / 1e6:>9.0f} MB/s   {ratio:.2f} of open")

    def drgn(self, vault: str, source: str) -> None:
        """Tasks and dmesg with debug symbols, the whole process, beside drgn on the plain file."""
        script = f"{self.work}/script.py"
        with open(script, "w", encoding="utf-8") as file:
            file.write(SCRIPT)
        symbols = f"-s {self.options.vmlinux}"
        plain = f"drgn -q --no-default-symbols {symbols} -c {source} {script}"
        sealed = f"dumpvault drgn --no-default-symbols {symbols} {vault} {script}"
        if self.call("sh", "-c", plain) != self.call("sh", "-c", sealed):
            sys.exit("drgn says something else on the vault")
        pairs = [(self.seconds(plain), self.seconds(sealed)) for _ in range(max(5, self.options.runs))]
        ratio = statistics.median(b / a for a, b in pairs)
        print(
            f"drgn, tasks and dmesg: plain {statistics.median(a for a, _ in pairs):.2f} s, on the vault {ratio:.2f} times that"
        )

    def dmesg(self, vault: str) -> None:
        view = self.view(vault)
        for _ in view.kernel_log(print):
            pass
        total = view.report.examiner.totals.sealed
        print(f"dmesg fetches {view.reader.fetched} of {total} sealed bytes: {100 * view.reader.fetched / total:.1f} %")

    def seconds(self, line: str) -> float:
        began = perf_counter()
        subprocess.run(["sh", "-c", line], env=self.env, check=True, capture_output=True)
        return perf_counter() - began

    def median(self, measure: Callable[[], float]) -> float:
        return statistics.median(measure() for _ in range(self.options.runs))


if __name__ == "__main__":
    main()
