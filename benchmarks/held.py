"""Memory held over time while a dump is captured, against a release at the end: GiB·s, as a ratio and a plot.

    python benchmarks/held.py [--mib 1024] [--directory DIR] [--svg FILE]

A dump of memory-like data with a release_region of its own, in files: what is written to it is noted with its time. The
area under the curve of what is not yet released, divided by all of it held to the end, is the ratio; less is better.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

import memory

from dumpvault.flows.capture import CaptureRequest, capture
from dumpvault.flows.keys import new_recipient, new_signer
from dumpvault.flows.site import Site, init_site
from dumpvault.formats.commit import Release
from dumpvault.stages.release.phyp import PhypRelease

MIB = 1 << 20
LOW = 64  # MiB of low memory, whose copy stands at the top of the reserve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--directory", help="where to work; a directory on the disk to be measured")
    parser.add_argument("--svg", help="write the plot there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        measure(Path(work), options.mib, options.svg)


def measure(work: Path, mib: int, svg: str | None) -> None:
    source = work / "vmcore"
    subprocess.run([sys.executable, memory.__file__, str(source), str(mib)], check=True)
    sysfs = work / "sys" / "kernel"
    sysfs.mkdir(parents=True)
    # The dump's one segment begins at 1 MiB; the reserve is everything above low memory.
    end = (mib + 1) * MIB
    scratch = end - LOW * MIB
    cpu, hpte = scratch - 0x3000, scratch - 0x1000
    (sysfs / "release_region").write_text(
        f"CPU:{cpu:#x}-0x2000: HPTE:{hpte:#x}-0x1000: "
        f"DUMP:{scratch:#x}-{LOW * MIB:#x}, {LOW * MIB:#x}-{scratch - LOW * MIB:#x}:\n"
    )
    site = Site.load({"DUMPVAULT_HOME": str(work / "site")})
    init_site(site)
    new_recipient(site, "r", "xwing", None)
    new_signer(site, "s", "collector", None)
    released: list[tuple[float, int]] = []

    def perform(self: PhypRelease, release: Release) -> str:
        released.append((monotonic(), release.length))
        return "released"

    PhypRelease.perform = perform  # type: ignore[method-assign]
    request = CaptureRequest(
        source=str(source),
        recipients=("r",),
        signers=("s",),
        jobs=2,
        release="phyp",
        vmcore=str(source),
        sysfs=str(work / "sys"),
    )
    began = monotonic()
    result = capture(site, request, lambda done, total: None, lambda vault: None)
    seconds = monotonic() - began
    total = (mib + 1 - LOW) * MIB
    held, area_held, last = total, 0.0, began
    points = [(0.0, held)]
    for moment, length in released:
        area_held += held * (moment - last)
        held, last = held - length, moment
        points += [(moment - began, points[-1][1]), (moment - began, held)]
    area_held += held * (began + seconds - last)
    points.append((seconds, held))
    print(f"{mib} MiB, {result.manifest.totals.regions} regions, {len(released)} releases, {seconds:.2f} s")
    print(f"held: {area_held / 2**30:.3f} GiB·s; to the end: {total * seconds / 2**30:.3f} GiB·s; "
          f"ratio {area_held / (total * seconds):.2f}; left at the end {held} bytes")  # fmt: skip
    if svg:
        Path(svg).write_text(plot(points, total, seconds, area_held / (total * seconds)), encoding="utf-8")


def plot(points: list[tuple[float, int]], total: int, seconds: float, ratio: float) -> str:
    """A small SVG: the curve, what it saves, and its numbers as text."""
    width, height, left, top = 640, 300, 60, 30

    def at(x: float, y: float) -> str:
        return f"{left + width * x / seconds:.1f},{top + height * (1 - y / total):.1f}"

    curve = " ".join(at(x, y) for x, y in points)
    ticks = "".join(
        f'<text x="{left - 8}" y="{top + height * (1 - share) + 4:.0f}" text-anchor="end">{total * share / 2**20:.0f}</text>'
        for share in (0, 0.5, 1)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 390" font-family="sans-serif" font-size="13">
<title>Memory not yet released while a dump is captured</title>
<rect width="740" height="390" fill="#ffffff"/>
<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="#f2d9d0"/>
<polygon points="{at(0, 0)} {curve} {at(seconds, 0)}" fill="#2f6f8f"/>
<text x="{left}" y="18">MiB of memory not yet released; pale: what a release at the end would hold</text>
{ticks}
<text x="{left}" y="{top + height + 20}">0 s</text>
<text x="{left + width}" y="{top + height + 20}" text-anchor="end">{seconds:.1f} s</text>
<text x="{left}" y="{top + height + 44}">ratio of the areas: {ratio:.2f}</text>
</svg>
"""


if __name__ == "__main__":
    main()
