"""Draws the screenshots of how-to/report.md: a vault that was opened and changed, its ledger, in a real Chromium."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from dumpvault.flows.demo import write_memory
from support.browser import browser
from support.command import Home, make_home

HERE = Path(__file__).parent
POLICY = Path(__file__).parents[2] / "policies/baseline.toml"


def make_report(folder: Path) -> Path:
    """A vault that was opened, granted from, rewrapped and shredded in part, and the report on it."""
    home: Home = make_home(folder / "site", "ana")
    write_memory(str(folder / "vmcore"), 64)
    (folder / "policy.toml").write_text(POLICY.read_text().replace("mib = 64\nseconds", "mib = 4\nseconds"))
    steps = (
        ("keys", "new", "recipient", "bob", "--unprotected"),
        ("keys", "new", "signer", "officer", "--role", "officer", "--unprotected"),
        ("capture", folder / "vmcore", "--recipient", "analyst", "--signer", "collector", "--region-size", "1M",
         "--host", "db1.example", "--policy", folder / "policy.toml"),
        ("keys", "new", "signer", "eve", "--role", "witness", "--unprotected"),
        ("custody", "sequence"),
        ("custody", "witness"),
        ("custody", "record", "latest", "received", "--from", "db1.example", "--ticket", "INC-7"),
        ("open", "latest", "-o", folder / "copy", "--reason", "db1 panicked twice this week", "--ticket", "INC-7"),
        ("grant", "latest", "--regions", "40-43", "--to", "bob", "-o", folder / "grant.json"),
        ("rewrap", "latest", "--add", "bob"),
        ("shred", "latest", "--regions", "12-19", "--reason", "customer data, ticket INC-7", "--yes", "-o", folder / "c.json"),
        ("report", "latest", "-o", folder / "report.html"),
    )  # fmt: skip
    for step in steps:
        ran = home.call(*step)
        assert ran.code == 0, ran.err
    return folder / "report.html"


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        page = make_report(Path(work))
        with browser(Path(work)) as chromium:
            for name, width, scheme, query in (
                ("report-answers", 900, "light", ".answers"),
                ("report-custody", 900, "light", "figure:has([id$=custody-d])"),
                ("report-memory", 900, "light", "figure:has([id$=memory-t])"),
                ("report-dark-narrow", 360, "dark", ".answers"),
            ):
                chromium.look(width, scheme)
                chromium.open(page)
                box = chromium.evaluate(
                    f"(r => [r.top, r.bottom])(document.querySelector({query!r}).getBoundingClientRect())"
                )
                top = 0 if query == ".answers" else box[0] - 12
                clip = {"x": 0, "y": top, "width": width, "height": box[1] - top + 16}
                (HERE / f"{name}.webp").write_bytes(chromium.picture("webp", clip))


if __name__ == "__main__":
    main()
