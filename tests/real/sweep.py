"""Look for the least ``crashkernel=`` with which a capture succeeds, for each layout of the root (``make real SWEEP=1``).

Each size is a boot, a panic and a capture of its own, with the same memory of the machine. The sizes go down from those that
the tests use until a capture fails. A crash kernel that goes on for minutes, reading its programs from the disk again and
again, has failed too.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from real.cache import Missing
from real.scenarios import SCENARIOS, make_site, what_a_guest_gets
from real.table import Row, table

_STEP_MIB = 8
#: Seconds; a capture that succeeds takes less than one minute, with the boots and the panic.
_LIMIT = 240


def sweep(guest: Path, top: str, name: str) -> list[Row]:
    """The captures of one layout that succeeded, the largest ``crashkernel=`` first."""
    rows: list[Row] = []
    scenario = replace(SCENARIOS[name], steps=("capture",))
    while True:
        with TemporaryDirectory(dir=top) as folder:
            crash = scenario.crash(guest, Path(folder), _LIMIT)
        step = crash.steps.get("capture")
        said = f"{name} crashkernel={scenario.reserved_mib}M:"
        if crash.faults or step is None or step.code:
            why = crash.faults[0] if crash.faults else f"exit {step.code}" if step else f"no end in {_LIMIT} seconds"
            print(said, f"no: {why}", flush=True)
            return rows
        print(said, "captured", flush=True)
        rows.append(Row(crash, step, crash.vmcore_size, None))
        scenario = replace(scenario, reserved_mib=scenario.reserved_mib - _STEP_MIB)


def main(names: list[str]) -> None:
    with TemporaryDirectory(prefix="dumpvault-sweep-") as top, ThreadPoolExecutor(2) as pool:
        guest = what_a_guest_gets(make_site(Path(top) / "site"), Path(top) / "guest")
        rows = [row for rows in pool.map(partial(sweep, guest, top), names or SCENARIOS) for row in rows]
    print(*table(rows), sep="\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Missing as error:
        sys.exit(f"not swept: {error}")
