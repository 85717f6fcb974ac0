"""Peak resident memory of capture: 1 GiB, 8 GiB, and a dump cut into 100 000 small regions.

    python benchmarks/resident.py [--directory DIR]

Needs 17 GiB of disk. The bound is 64 MiB, and that it does not grow.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from time import perf_counter

import memory

SHAPES = ((1024, "64M"), (8192, "64M"), (800, "8K"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", help="where to work")
    options = parser.parse_args()
    print(f"{'MiB':>6} {'region':>7} {'regions':>8} {'seconds':>8} {'peak MiB':>9}")
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        env = os.environ | {"DUMPVAULT_HOME": f"{work}/site"}
        for arguments in ("init", "keys new recipient r --unprotected", "keys new signer s --unprotected"):
            subprocess.run(["dumpvault", *arguments.split()], env=env, check=True, capture_output=True)
        for mib, region in SHAPES:
            source = f"{work}/vmcore"
            subprocess.run([sys.executable, memory.__file__, source, str(mib)], check=True)
            command = f"dumpvault capture {source} --recipient r --signer s --jobs 2 --region-size {region}".split()
            began = perf_counter()
            process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"failed ({status}): {' '.join(command)}")
            seconds = perf_counter() - began
            regions = sum(
                1 for _, _, names in os.walk(f"{work}/site/store") for name in names if name.endswith(".sealed")
            )
            print(f"{mib:>6} {region:>7} {regions:>8} {seconds:>8.1f} {usage.ru_maxrss / 1024:>9.1f}", flush=True)
            shutil.rmtree(f"{work}/site/store")
            os.unlink(source)


if __name__ == "__main__":
    main()
