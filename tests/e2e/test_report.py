"""Reports: the facts, the page, and what a real browser makes of it."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from dumpvault.flows.judging import Judge
from dumpvault.flows.rendering import render, write_report
from dumpvault.flows.reporting import vault_facts
from dumpvault.flows.site import Site
from dumpvault.flows.verify import verify
from dumpvault.formats import report_pictures
from dumpvault.formats.report_facts import Capture, CustodyEntry, Lane, MemoryMap, Point, ReportFacts
from support.browser import browser
from support.officers import Case, make_case
from support.vmcore import write_core

ROOT = Path(__file__).parents[2]
LOST = 4096  # bytes of region 1, the notes
HOSTILE = "</style></title></desc></svg>--><script>alert(1)</script><img src=http://x/ onerror=alert(1)>\"'&{{ 7*7 }}\u202e\x1b"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A vault with all of an officer's events, of a host and with a reason that are markup."""
    case = make_case(tmp_path_factory.mktemp("report"))
    assert case.home.call("keys", "new", "recipient", "bob", "--unprotected").code == 0
    for command in (
        ("grant", "--notes", "--to", "bob", "-o", case.home.path / "grant.json"),
        ("rewrap", "--add", "bob"),
        ("shred", "--regions", "2-3", "--reason", HOSTILE[:-2], "--yes", "-o", case.home.path / "certificate.json"),
    ):
        ran = case.call(*command)
        assert ran.code == 0, ran.err
    return case


@pytest.fixture
def case(original: Case, tmp_path: Path) -> Case:
    return original.copied(tmp_path / "site")


def facts_of(case: Case) -> ReportFacts:
    site = Site.load(case.home.env)
    report = verify(site.store(), case.vault.name, site.trust.allowed_signers(), judge=Judge(site))
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return ReportFacts(now, now, "dumpvault", "allowed_signers", None, (vault_facts(report),))


class Page(HTMLParser):
    """The elements of a page, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def well_formed(text: str) -> Page:
    """What every page must be: headings in order, ids once, pictures named and followed by a table, nothing that loads."""
    page = Page(text)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert page.all("html") == [{"lang": "en"}]
    forbidden = {"script", "img", "link", "iframe", "object", "form", "b", "i"}
    assert not forbidden & {tag for tag, _ in page.tags}
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on") or a in ("style", "src")]
    order = [(tag, attrs) for tag, attrs in page.tags if tag == "table" or attrs.get("role") == "img"]
    for number, (tag, attrs) in enumerate(order):
        if tag == "svg":
            assert order[number + 1][0] == "table", "a picture has its table"
            assert all(name in ids for name in (attrs["aria-labelledby"] or "").split())
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert (policy or "").startswith("default-src 'none'; style-src 'sha256-")
    return page


def test_a_page_of_an_intact_vault(case: Case, tmp_path: Path) -> None:
    """The answer first; who holds keys and what was not checked; the file is whole, and is not replaced unasked."""
    out = tmp_path / "report.html"
    ran = case.call("report", "-o", out)
    assert (ran.code, ran.out) == (0, f"{case.vault.name}: intact; complete\n"), ran.err
    text = out.read_text()
    page = well_formed(text)
    assert len([s for s in page.all("svg") if s.get("role") == "img"]) == 3
    for words in (
        "Intact",
        "Nobody who said so",
        "analyst, bob",
        "1 of",
        "All 32 rules",
        "That the regions open",
        "shredded",
    ):
        assert words in text
    again = case.call("report", "-o", out)
    assert again.code == 1
    assert "exists" in again.err
    assert case.call("report", "-o", out, "--force").code == 0
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".report")]


def test_json_says_the_same(case: Case) -> None:
    """The same facts as data: steps, rules, events with their signers, and the map's ranges in hex."""
    ran = case.call("report", "--json")
    assert ran.code == ran.json["exit_code"] == 0
    (vault,) = ran.json["vaults"]
    assert [e["event"] for e in vault["custody"]["entries"]] == [
        "collected",
        "collected",
        "granted",
        "rewrapped",
        "shredded",
    ]
    assert [e["index"] for e in vault["custody"]["entries"]] == list(range(5))
    assert (vault["custody"]["ledger"], vault["timestamps"]["state"]) == ("verified", "not given")
    assert len(vault["policy"]["rules"]) == 32
    assert [s["number"] for s in vault["steps"]] == list(range(1, 11))
    lanes = {lane["key"]: lane for lane in vault["memory"]["lanes"]}
    assert vault["memory"]["axis"] == "physical"
    assert lanes["shredded"]["bytes"] == 2 << 19
    assert lanes["sealed"]["bytes"] == len(case.source) == vault["capture"]["points"][-1]["durable"]


def test_a_store_without_a_ledger(case: Case, tmp_path: Path) -> None:
    """What nobody kept is said to be not known, and no more than that."""
    shutil.rmtree(case.home.path / "store/ledger")
    shutil.rmtree(case.home.path / "ledgers")
    ran = case.call("report", "-o", tmp_path / "report.html", "--json")
    (vault,) = ran.json["vaults"]
    assert (ran.code, vault["custody"]["ledger"], vault["answers"][3]["short"]) == (0, "not given", "Not known")
    assert "No custody log was given" in (tmp_path / "report.html").read_text()


def test_the_ledger_tells_who_opened(case: Case, tmp_path: Path) -> None:
    """Openings with their reasons, escaped; a ledger that was changed makes the report fail, and says why."""
    why = "<script>alert('INC-7')</script>"
    assert case.call("open", "-o", tmp_path / "copy", "--partial", "--reason", why).code in (0, 3)
    ran = case.call("report", "-o", tmp_path / "report.html", "--json")
    (vault,) = ran.json["vaults"]
    events = [one["event"] for one in vault["custody"]["entries"]]
    assert events[-2:] == ["opened", "closed"]
    assert events.count("rewrapped") == 1, "what the vault and the ledger both tell stands once"
    (rewrapped,) = [one for one in vault["custody"]["entries"] if one["event"] == "rewrapped"]
    assert "sealed to analyst, bob" in rewrapped["detail"]
    assert "of sealed bytes read" in vault["custody"]["entries"][-1]["detail"]
    assert (vault["answers"][3]["grade"], "opened once" in vault["answers"][3]["text"]) == ("fact", True)
    text = (tmp_path / "report.html").read_text()
    well_formed(text)
    assert "&lt;script&gt;alert(&#39;INC-7&#39;)&lt;/script&gt;" in text
    entry = case.home.path / "store/ledger/entries/1"
    entry.chmod(0o600)
    entry.write_bytes(entry.read_bytes()[:-1])
    ran = case.call("report", "-o", tmp_path / "after.html", "--json")
    assert (ran.code, ran.json["vaults"][0]["custody"]["ledger"]) == (10, "failed")
    assert "rewritten: " in (tmp_path / "after.html").read_text()
    assert "verified" not in ran.json["vaults"][0]["answers"][3]["text"]


@pytest.mark.parametrize("wrong", ["body", "missing", "header", "manifest"])
def test_a_failing_vault_gets_its_report(case: Case, tmp_path: Path, wrong: str) -> None:
    """Exit codes are verify's, the page is written all the same, and its first answer says so."""
    name = {
        "body": "regions/1/1.sealed",
        "missing": "regions/1/1.sealed",
        "header": "vault.dsse.json",
        "manifest": "manifest.dsse.json",
    }
    victim = case.vault / name[wrong]
    victim.chmod(0o600)
    if wrong == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-9] + b"XXXXXXXXX")
    out = tmp_path / "report.html"
    ran = case.call("report", "-o", out)
    assert ran.code == case.call("verify").code == (3 if wrong == "missing" else 10)
    text = out.read_text()
    well_formed(text)
    assert ("Incomplete" if wrong == "missing" else "Not intact") in text
    memory = case.call("report", "--json").json["vaults"][0]["memory"]
    lost = {lane["key"]: lane["bytes"] for lane in memory["lanes"]}["missing"] if memory else None
    assert lost == {"body": LOST, "missing": LOST, "header": None, "manifest": 0}[wrong]


def test_a_store_with_good_and_bad_vaults(case: Case, tmp_path: Path) -> None:
    """All vaults on one page, each with its sections; the exit code is the worst; an id that is none is usage."""
    vector = ROOT / "tests/vectors/unfinished-xwing-zstd"
    for vault in (vector / "store/vaults").iterdir():
        shutil.copytree(vault, case.home.vaults / vault.name)
    junk = case.home.vaults / ("f" * 32)
    junk.mkdir()
    (junk / "vault.dsse.json").write_text("{}")
    trust = tmp_path / "trust"
    trust.write_text((case.home.path / "keys/allowed_signers").read_text() + (vector / "allowed_signers").read_text())
    out = tmp_path / "site.html"
    ran = case.home.call("report", "--store", "-o", out, "--allowed-signers", trust)
    assert ran.code == 10, ran.err
    text = out.read_text()
    page = well_formed(text)
    assert len(page.all("section")) == 3
    assert "1 of 3 intact" in text
    assert case.home.call("report", "-o", out, "--force").code == 2
    assert case.home.call("report", "latest").code == 2


def hostile(value: Any, hint: Any = None) -> Any:
    """``value`` with each word that a vault could bring replaced by markup; times, ids and our own words stay."""
    ours = {"time", "vault", "made", "judged_at", "created", "finished", "key"}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value), vars(sys.modules[type(value).__module__]))
        changed = {
            f.name: hostile(getattr(value, f.name), hints[f.name])
            for f in dataclasses.fields(value)
            if f.name not in ours and "Literal" not in str(hints[f.name])
        }
        return dataclasses.replace(value, **changed)
    if isinstance(value, tuple):
        return tuple(hostile(one, str) for one in value)
    return HOSTILE if isinstance(value, str) else value


def test_markup_in_every_field_stays_text(original: Case) -> None:
    """Each string of the facts replaced by markup, in a report on one vault and on a store: no element comes of it."""
    facts = hostile(facts_of(original))
    assert facts.vaults[0].host == HOSTILE
    for one in (dataclasses.replace(facts, store=None), dataclasses.replace(facts, store=HOSTILE)):
        text = render(one)
        well_formed(text)
        assert text.count("alert(1)") > 50
        assert "<script" not in text
        assert "<img" not in text
        assert "{{ 7*7 }}" in text
        assert "\u202e" not in text
        assert "\x1b" not in text


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_in_both_schemes() -> None:
    """Text has 4.5 to 1 against the paper, marks of pictures 3 to 1 against paper and track (WCAG AA); no other colours."""
    css = (ROOT / "vault/dumpvault/templates/report.css").read_text()
    light, dark = (
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    )
    assert light.keys() == dark.keys()
    rest = re.sub(r":root \{.*?\}", "", css, flags=re.S)
    assert not re.findall(r"#[0-9a-f]{3,8}\b|rgb|hsl", rest)
    for scheme in (light, dark):
        for text in ("ink", "quiet", "good", "part", "bad", "unknown", "fact"):
            assert contrast(scheme[text], scheme["paper"]) >= 4.5, text
        for mark in ("sealed", "missing", "zero", "unreadable", "released", "granted", "shredded"):
            assert min(contrast(scheme[mark], scheme[g]) for g in ("track", "paper")) >= 3, mark


def test_a_real_browser(original: Case, tmp_path: Path) -> None:
    """Chromium: light, dark, 360 pixels, paper. It complains of nothing, asks for nothing, and nothing sticks out."""
    facts = facts_of(original)
    (tmp_path / "one.html").write_text(render(facts))
    (tmp_path / "hostile.html").write_text(render(hostile(facts)))
    write_report(str(tmp_path / "site.html"), render(dataclasses.replace(facts, store="here")), force=False)
    with browser(tmp_path) as chromium:
        for name in ("one", "site", "hostile"):
            page = tmp_path / f"{name}.html"
            seen = []
            for width, scheme in ((1000, "light"), (1000, "dark"), (360, "light")):
                chromium.look(width, scheme)
                chromium.open(page)
                seen.append(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
                assert chromium.evaluate("document.documentElement.scrollWidth") <= width
                for query in (".picture text", "h1", ".answers dd"):
                    right = f"Math.max(...[...document.querySelectorAll({query!r})].map(e => e.getBoundingClientRect().right))"
                    if name != "hostile":
                        assert chromium.evaluate(right) <= width, query
            assert seen == ["rgb(255, 255, 255)", "rgb(20, 24, 28)", "rgb(255, 255, 255)"]
            assert chromium.pdf().startswith(b"%PDF")
        assert len(chromium.picture()) > 10_000
        assert set(chromium.requests) == {(tmp_path / f"{n}.html").as_uri() for n in ("one", "site", "hostile")}
        assert chromium.complaints == []


def test_pictures_of_large_and_odd_vaults() -> None:
    """Sparse addresses keep in the frame, slivers are seen, long courses are thinned, clocks that go back are told of."""
    far = 1 << 50
    lane = Lane("sealed", "Sealed", tuple((far + i * 8192, far + i * 8192 + 4096) for i in range(0, 200_000, 7)), 1)
    axis, bars = report_pictures.strips(
        MemoryMap("physical", ((0, 1 << 30), (far, far + (1 << 31)), (far * 2, far * 2 + 4096)), (lane,), ())
    )
    assert len(axis.breaks) == 2
    assert 0 < len(bars["sealed"]) <= 1000
    assert all(x >= 0 and x + width <= 1000 and width > 0 for x, width in bars["sealed"])
    points = tuple(
        Point(n, f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}Z", 1, "regions", n << 20, n << 20, 0, 0)
        for n in range(3000)
    )
    course = report_pictures.course(Capture(points, "2026-01-01T01:00:00Z", 3000 << 20))
    assert len(course.lines[0][1].split()) < 700
    back = (points[9], dataclasses.replace(points[3], attempt=2, kind="takeover", commit=10))
    assert "clocks" in report_pictures.course(Capture(back, None, None)).note
    assert report_pictures.elapsed("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z") == "earlier, by the signer's clock"
    entries = tuple(CustodyEntry("2026-01-01T00:00:00Z", "opened", "a", "analyst", None, None, n) for n in range(100))
    from dumpvault.formats.report_facts import Custody

    rows = report_pictures.rows(Custody(entries, "verified", 100))
    assert (len(rows), sum(row.left_out for row in rows)) == (24, 76)


def test_a_source_without_addresses(tmp_path: Path) -> None:
    """A dump that is no ELF: the map goes by offset and says so; raw regions leave zeros unknown."""
    case = make_case(tmp_path, b"\0" * (3 << 20))
    (vault,) = case.call("report", "--json").json["vaults"]
    assert vault["memory"]["axis"] == "file"
    zero = next(lane for lane in vault["memory"]["lanes"] if lane["key"] == "zero")
    assert zero["bytes"] == 3 << 20, "all regions have the size of zeros"
    write_core(tmp_path / "raw", 8)
    ran = case.home.call(
        "capture", tmp_path / "raw", "--recipient", "analyst", "--signer", "collector", "--compress", "none"
    )
    (vault,) = case.home.call("report", ran.out.strip(), "--json").json["vaults"]
    assert next(lane for lane in vault["memory"]["lanes"] if lane["key"] == "zero")["ranges"] is None
