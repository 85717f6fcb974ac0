"""Look for the least ``crashkernel=`` with which a capture succeeds, for each layout of the root (``make real SWEEP=1``).

Each size is a boot, a panic and a capture of its own; the machine's memory is the same for all. Goes down in steps of 8 MiB
until a capture fails; prints one table.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from real.cache import Missing
from real.scenarios import SCENARIOS, make_site, what_a_guest_gets
from real.table import Row, table

_STEP = 8  # MiB
_START = {"x86_64-disk": 128, "x86_64-initramfs": 192, "ppc64le-disk": 256}


def main(names: list[str]) -> None:
    rows = []
    with TemporaryDirectory(prefix="dumpvault-sweep-") as top:
        home = make_site(Path(top) / "site")
        guest = what_a_guest_gets(home, Path(top) / "guest")
        for name in names or list(_START):
            size = _START[name]
            while True:
                with TemporaryDirectory(dir=top) as folder:
                    crash = replace(SCENARIOS[name], reserved_mib=size, steps=("capture",)).crash(guest, Path(folder))
                step = crash.steps.get("capture")
                worked = crash.ended and step is not None and step.code == 0 and not crash.faults
                why = "" if worked else " ".join(crash.faults[:1]) or "the capture did not end well"
                print(f"{name} crashkernel={size}M: {'captured' if worked else 'no: ' + why}", flush=True)
                if not worked or step is None:
                    break
                rows.append(Row(crash, step, crash.vmcore_size, None))
                size -= _STEP
    print(*table(rows), sep="\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Missing as error:
        sys.exit(f"not swept: {error}")
