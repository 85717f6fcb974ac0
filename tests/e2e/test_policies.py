"""Policies through the commands: what capture refuses before it writes, and what verifying and opening refuse afterwards,
whatever policy the vault's own header states."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dumpvault.flows import attempt
from dumpvault.flows.judging import Judge, facts
from dumpvault.flows.site import Site
from dumpvault.flows.verified import Report
from dumpvault.flows.verify import verify
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.header import PolicyText
from dumpvault.formats.policy import Policy
from dumpvault.formats.rules import RULES
from dumpvault.ranges import Ranges
from dumpvault.stages.store import open_store
from support.command import Home, Ran, make_home
from support.enforcement import SHIPPED, changed, shipped_text
from support.vmcore import write_core
from support.words import clean

BASELINE = shipped_text("baseline")
FAULTY = "eventful-two-attempts"
VECTORS = Path(__file__).parents[1] / "vectors"
ARGUMENTS = ("--recipient", "analyst", "--signer", "collector")


@dataclass(frozen=True)
class Scene:
    """A home, a source of 3 MiB, and what sealed it."""

    home: Home
    vmcore: Path

    def policy(self, name: str, changes: dict[str, str]) -> Path:
        path = self.home.path / "policies" / f"{name}.toml"
        path.write_text(changed(BASELINE, changes))
        return path

    def seal(self, *arguments: object) -> str:
        ran = self.home.call("capture", self.vmcore, *ARGUMENTS, *arguments)
        assert ran.code == 0, ran.err
        return ran.out.strip()

    def refuses(self, vault: str, *more: object) -> set[str]:
        """Verify and open say the same; the rules that they name, none if the vault passes."""
        ran = self.home.call("verify", vault, "--json", *more)
        broken = {one["rule"] for one in ran.json["policy"]["broken"]}
        assert (ran.code, ran.json["verdict"]) == ((11, "refused") if broken else (0, "intact")), clean(ran)
        copy = self.home.path / "copy"
        opened = self.home.call("open", vault, "-o", copy, *more)
        assert opened.code == ran.code, clean(opened)
        assert copy.exists() == (not broken)
        copy.unlink(missing_ok=True)
        return broken


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("policies")
    home = make_home(folder / "site")
    for name, kem in (("bob", "xwing"), ("old", "x25519")):
        assert home.call("keys", "new", "recipient", name, "--kem", kem, "--unprotected").code == 0
    return Scene(home, write_core(folder / "vmcore", 768))


#: By rule: what the policy says, and what capture is told beside it.
CAPTURES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "recipients.kems": ({"recipients.kems": '["mlkem1024"]'}, ()),
    "recipients.minimum": ({"recipients.minimum": "2"}, ()),
    "recipients.mix_classical": ({}, ("--recipient", "old")),
    "recipients.groups": ({"recipients.groups": '{ legal = ["bob", "carol"] }'}, ()),
    "quorum.needed": ({"quorum.needed": "2"}, ()),
    "quorum.of": ({"quorum.needed": "2", "quorum.of": "3"}, ()),
    "quorum.custodians": ({"quorum.needed": "2", "quorum.custodians": '["analyst", "bob"]'}, ()),
    "signatures.kinds": ({"signatures.kinds": '["mldsa87"]'}, ()),
    "signatures.minimum": ({"signatures.minimum": "2"}, ()),
    "signatures.demanded": ({"signatures.demanded": '["mldsa87"]'}, ()),
    "regions.mib": ({"regions.mib": "1"}, ("--region-size", "2M")),
    "regions.compress": ({"regions.compress": '"none"'}, ("--compress", "zstd")),
    "release.mode": ({"release.mode": '"none"'}, ("--release", "phyp")),
    "store.kinds": ({"store.kinds": '["sftp", "s3"]'}, ()),
    "store.mount_point": ({"store.mount_point": '"/nowhere"'}, ()),
    "store.filesystem": ({"store.filesystem": '"1f2e3d4c-0000-4000-8000-123456789abc"'}, ()),
    "retrieval.approvals": ({"retrieval.approvals": "2"}, ()),
    "retention.lock": ({"retention.lock": '"compliance"'}, ()),
}


@pytest.mark.parametrize("rule", CAPTURES)
def test_capture_refuses(scene: Scene, rule: str) -> None:
    """Exit 11 and the policy's name before anything is written; ``policy check`` names the rule before any crash."""
    changes, more = CAPTURES[rule]
    path = scene.policy("strict", changes)
    store = scene.home.path / "untouched"
    ran = scene.home.call("capture", scene.vmcore, *ARGUMENTS, *more, "--policy", path, "--store", store)
    assert ran.code == 11, clean(ran)
    assert "policy strict, " in clean(ran)
    assert "Nothing was captured" in clean(ran)
    assert not store.exists()
    if more and more[0] != "--recipient":
        assert rule in clean(ran)
        return
    told = scene.home.call("policy", "check", path, *ARGUMENTS, *more, "--store", store, "--json")
    states = {line["rule"]: line["state"] for line in told.json["rules"]}
    assert (told.code, states[rule]) == (11, "broken")
    assert set(states) == {r.name for r in RULES}
    assert not store.exists()


def test_every_check_at_capture_is_driven() -> None:
    assert set(CAPTURES) == {rule.name for rule in RULES if callable(rule.capture)}


@contextmanager
def unreadable(bad: int | None) -> Iterator[None]:
    """Within, the source's page at ``bad`` cannot be read."""
    whole = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if bad is not None and offset <= bad < offset + len(buffers[0]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(fd, buffers, offset)

    with mock.patch.object(os, "preadv", preadv):
        yield


_SEEDS = itertools.count(100)


def fadump(scene: Scene, policy: dict[str, str], bad: int | None) -> tuple[Ran, Path]:
    """A capture of a dump of its own, into a store of its own, that may release by fadump at its end."""
    seed = next(_SEEDS)
    folder = scene.home.path / f"fadump{seed}"
    (folder / "sys/kernel").mkdir(parents=True)
    (folder / "sys/kernel/fadump_release_mem").write_text("")
    vmcore = write_core(folder / "vmcore", 64, seed)
    shutil.rmtree(scene.home.path / "run", ignore_errors=True)  # the journal of a boot that is over
    with unreadable(bad):
        ran = scene.home.call(
            "capture", vmcore, *ARGUMENTS, "--vmcore", vmcore, "--sysfs", folder / "sys", "--release", "fadump",
            "--policy", scene.policy("fadump", policy), "--store", folder / "store",
        )  # fmt: skip
    return ran, folder


def sealed(*arguments: object, **policy: str) -> Callable[[Scene], str]:
    changes = {rule.replace("_", ".", 1): value for rule, value in policy.items()}
    return lambda scene: scene.seal(*arguments, "--policy", scene.policy("lax", changes))


def released(bad: int | None = None, **policy: str) -> Callable[[Scene], tuple[str, ...]]:
    def seal(scene: Scene) -> tuple[str, ...]:
        ran, folder = fadump(scene, {rule.replace("_", ".", 1): value for rule, value in policy.items()}, bad)
        assert ran.code == 0, clean(ran)
        return ran.out.strip(), "--store", str(folder / "store")

    return seal


#: By rule: how a vault is sealed under a policy that is lax, and what the trusted policy says.
OPENINGS: dict[str, tuple[Callable[[Scene], Any], dict[str, str]]] = {
    "recipients.kems": (sealed(), {"recipients.kems": '["mlkem1024"]'}),
    "recipients.minimum": (sealed(), {"recipients.minimum": "2"}),
    "recipients.mix_classical": (sealed("--recipient", "old", recipients_mix_classical="true"), {}),
    "recipients.groups": (sealed(), {"recipients.groups": '{ legal = ["bob", "carol"] }'}),
    "quorum.needed": (sealed(), {"quorum.needed": "2"}),
    "quorum.of": (sealed(), {"quorum.needed": "2", "quorum.of": "3"}),
    "quorum.custodians": (sealed(), {"quorum.needed": "2", "quorum.custodians": '["analyst", "bob"]'}),
    "signatures.kinds": (sealed(), {"signatures.kinds": '["mldsa87"]'}),
    "signatures.minimum": (sealed(), {"signatures.minimum": "2"}),
    "signatures.demanded": (sealed(), {"signatures.demanded": '["mldsa87"]'}),
    "regions.mib": (sealed("--region-size", "2M"), {"regions.mib": "1"}),
    "regions.compress": (sealed("--compress", "zstd"), {"regions.compress": '"none"'}),
    "commits.mib": (sealed("--region-size", "256K"), {"commits.mib": "1"}),
    "release.mode": (released(), {"release.mode": '"phyp"'}),
    "release.undescribed": (released(), {"release.undescribed": '"hold"'}),
    "release.unreadable": (released(65536, release_unreadable='"release"'), {}),
    "retrieval.approvals": (sealed(), {"retrieval.approvals": "1"}),
    "timestamps.demanded": (sealed(), {"timestamps.demanded": '"rfc3161"'}),
}


@pytest.mark.parametrize("rule", OPENINGS)
def test_opening_refuses(scene: Scene, rule: str) -> None:
    """A vault that obeys the policy in its own header, and not the trusted one, is refused by rule, and not opened."""
    seal, changes = OPENINGS[rule]
    told = seal(scene)
    vault, *where = (told,) if isinstance(told, str) else told
    assert scene.home.call("verify", vault, *where).code == 0
    strict = scene.policy("strict", changes)
    told = scene.home.call("verify", vault, *where, "--policy", strict, "--json").json
    broken = {one["rule"] for one in told["policy"]["broken"]}
    if rule.startswith("retrieval."):
        assert not broken, "verifying opens nothing"
    else:
        assert rule in broken
        assert broken <= {rule, "quorum.needed"}
        assert (told["verdict"], told["exit_code"]) == ("refused", 11)
    copy = scene.home.path / "copy"
    for partial in ((), ("--partial",)):
        ran = scene.home.call("open", vault, *where, "-o", copy, "--policy", strict, *partial)
        assert ran.code == 11, clean(ran)
        assert rule.partition(".")[0] in clean(ran)
        assert not copy.exists()


def test_every_check_at_opening_is_driven() -> None:
    """The rest has tests of its own below, custody in test_custody.py."""
    rest = {"retrieval.reason", "retrieval.ticket", "retention.destroy_days", "custody.required", "custody.anchor"}
    assert set(OPENINGS) | rest == {rule.name for rule in RULES if callable(rule.opening)}


def test_reason_and_ticket(scene: Scene) -> None:
    """Asked of whoever opens, in every command that does; never of who verifies."""
    vault = scene.seal()
    strict = scene.policy("strict", {"retrieval.reason": "true", "retrieval.ticket": '"INC-[0-9]*"'})
    copy = scene.home.path / "copy"
    opening = ("open", vault, "-o", copy, "--policy", strict)
    for more, rule in (
        ((), "retrieval.reason"), (("--ticket", "INC-1"), "retrieval.reason"), (("--reason", " "), "retrieval.reason"),
        (("--reason", "it died"), "retrieval.ticket"), (("--reason", "it died", "--ticket", "1"), "retrieval.ticket"),
    ):  # fmt: skip
        ran = scene.home.call(*opening, *more)
        assert (ran.code, rule in clean(ran), copy.exists()) == (11, True, False), clean(ran)
        assert f"--{rule.partition('.')[2]}" in clean(ran)
    assert scene.home.call(*opening, "--reason", "it died", "--ticket", "INC-1").code == 0
    copy.unlink()
    assert scene.home.call("verify", vault, "--policy", strict).code == 0
    assert scene.home.call("info", vault, "--policy", strict).code == 0


@pytest.mark.parametrize("command", ["verify", "info", "open", "mount", "drgn", "crash", "dmesg"])
def test_every_command_that_reads(scene: Scene, command: str, tmp_path: Path) -> None:
    """Each asks the trusted policy, from the configuration alone, and says which rule is broken."""
    if command == "crash" and shutil.which("crash") is None:
        pytest.skip("NO crash COMMAND: nothing was proved here")
    vault = scene.seal()
    (tmp_path / "at").mkdir()
    arguments = {"open": ("-o", tmp_path / "copy"), "mount": (tmp_path / "at",), "crash": (scene.vmcore,)}
    with configured(scene, '[policies]\n"*" = "two-person"\n'):
        ran = scene.home.call(command, vault, *arguments.get(command, ()))
    assert ran.code == 11, clean(ran)
    assert "quorum.needed" in clean(ran) or command not in ("verify", "info")
    assert "policy two-person, recipients.minimum" in clean(ran)
    assert [path.name for path in tmp_path.rglob("*")] == ["at"]


@contextmanager
def configured(scene: Scene, text: str) -> Iterator[None]:
    """Within, the site's config.toml says ``text``."""
    path = scene.home.path / "config.toml"
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


def test_a_stolen_collector_key_and_a_laxer_policy(scene: Scene) -> None:
    """The collector's key signs whatever policy it likes; what counts is what the site names for the host."""
    strict = {"recipients.groups": '{ security = ["bob"] }', "recipients.minimum": "2"}
    scene.policy("databases", strict)
    both = ("--recipient", "bob", "--policy", "databases", "--host", "db1")
    honest, forged = scene.seal(*both), scene.seal("--host", "db1")
    other = scene.seal("--host", "web1")
    with configured(scene, '[policies]\n"db*" = "databases"\n"*" = "baseline"\n'):
        assert scene.refuses(honest) == set()
        assert scene.refuses(forged) == {"recipients.groups", "recipients.minimum"}
        assert scene.refuses(other) == set()
        lines = scene.home.call("verify", forged).out.splitlines()
        assert [line for line in lines if line.startswith(" 10.")] == [
            " 10. policy           FAILED  (databases, which this site trusts for host db1; captured under baseline, "
            "which differs)"
        ]
    # A key of his own under the name that the group asks for: the name is not what counts.
    thief = make_home(scene.home.path / "thief")
    assert thief.call("keys", "new", "recipient", "bob", "--unprotected").code == 0
    for private in ("private/collector.key", "keys/allowed_signers"):
        shutil.copy(scene.home.path / private, thief.path / private)
    ran = thief.call(
        "capture", scene.vmcore, *ARGUMENTS, "--recipient", "bob", "--host", "db1", "--store", scene.home.path / "store"
    )
    assert ran.code == 0, clean(ran)
    with configured(scene, '[policies]\n"db*" = "databases"\n'):
        told = scene.home.call("verify", ran.out.strip(), "--json").json
    assert {one["rule"] for one in told["policy"]["broken"]} == {"recipients.groups"}


def test_which_policy_counts(scene: Scene, tmp_path: Path) -> None:
    """--policy, then the first pattern that fits, then ``policy``; else the vault's own word, and verify says so."""
    vault = scene.seal("--host", "db1")

    def judged() -> tuple[str, bool]:
        told = scene.home.call("verify", vault, "--json").json["policy"]
        return told["name"], told["trusted"]

    scene.policy("one", {})
    scene.policy("two", {})
    assert judged() == ("baseline", False)
    assert "by the vault's own word" in scene.home.call("verify", vault).out
    for text, expected in (
        ('[policies]\n"db*" = "one"\n"*" = "two"\n', "one"), ('[policies]\n"*" = "two"\n"db*" = "one"\n', "two"),
        ('policy = "two"\n[policies]\n"web*" = "one"\n', "two"), ('policy = "two"\n[policies]\n"DB1" = "one"\n', "two"),
        ('[policies]\n"db[0-9]" = "policies/one.toml"\n', "one"), ('policy = "policies/two.toml"\n', "two"),
    ):  # fmt: skip
        with configured(scene, text):
            assert judged() == (expected, True)
            assert (
                scene.home.call("verify", vault, "--policy", "baseline", "--json").json["policy"]["name"] == "baseline"
            )
    scene.policy("two", {"commits.seconds": "5"})
    with configured(scene, 'policy = "two"\n'):
        ran = scene.home.call("open", vault, "-o", tmp_path / "copy")
    assert ran.code == 0
    assert "captured under baseline, which differs" in ran.err


@pytest.mark.parametrize(("text", "words"), [
    ("policies = 3\n", "a table"), ("[policies]\n'*' = 3\n", "a table"), ("[policies]\n'*' = ''\n", "a table"),
    ("[hosts]\n", "unknown setting"),
])  # fmt: skip
def test_configuration_errors(scene: Scene, text: str, words: str) -> None:
    with configured(scene, text):
        ran = scene.home.call("list")
    assert (ran.code, words in clean(ran)) == (1, True), clean(ran)


@pytest.mark.parametrize(("name", "words"), [("nothing", "no policy 'nothing'"), ("torn", "policy torn (")])
def test_a_trusted_policy_that_cannot_be_read(scene: Scene, name: str, words: str) -> None:
    """Nothing is opened while nobody can say what would be allowed, ``--partial`` or not."""
    vault = scene.seal()
    (scene.home.path / "policies" / "torn.toml").write_text("format = 2\n[recipients\n")
    with configured(scene, f'[policies]\n"*" = "{name}"\n'):
        for command in (
            ("verify", vault),
            ("open", vault, "-o", scene.home.path / "copy", "--partial"),
            ("dmesg", vault, "--partial"),
        ):
            ran = scene.home.call(*command)
            assert (ran.code, words in clean(ran)) == (1, True), clean(ran)
    assert not (scene.home.path / "copy").exists()
    (scene.home.path / "policies" / "torn.toml").unlink()


def test_an_own_policy_that_cannot_be_read(scene: Scene) -> None:
    """Of a later version, say: refused where it alone would count, no matter where another one does."""
    with mock.patch.object(attempt, "PolicyText", lambda name, text: PolicyText(name, "format = 3\n")):
        vault = scene.seal()
    ran = scene.home.call("verify", vault)
    assert (ran.code, "its own policy cannot be read" in clean(ran), "allowed: 1, 2" in clean(ran)) == (11, True, True)
    assert scene.refuses(vault, "--policy", "baseline") == set()


def judged_vector(name: str, policy: str | None, days: int = 0) -> Report:
    """A vault of tests/vectors, judged ``days`` after the day on which it was made."""
    folder = VECTORS / name
    vault = json.loads((folder / "case.json").read_text())["vault"]
    trust = AllowedSigners((folder / "allowed_signers").read_text())
    judge = Judge(Site.load({"DUMPVAULT_HOME": "/nowhere"}), policy)
    moment = datetime(2026, 11, 24, tzinfo=UTC) + timedelta(days=days)
    return verify(open_store(str(folder / "store")), vault, trust, moment=moment, judge=judge)


def test_vaults_of_format_1_policies_still_verify() -> None:
    """The vectors' headers state baseline in format 1; their own word holds, and so does today's baseline."""
    for folder in sorted(path.parent for path in VECTORS.glob("*/case.json") if path.parent.name != FAULTY):
        for policy in (None, "baseline"):
            report = judged_vector(folder.name, policy)
            assert "format = 1" in report.examiner.header.policy.text
            assert report.steps[10].state == "held", folder


def test_destruction_is_due(scene: Scene) -> None:
    """A vault that should be gone is refused once its days are over, and not a moment before."""
    policy = str(scene.policy("short", {"retention.destroy_days": "30"}))
    assert judged_vector("elf64-xwing-zstd", policy, 29).exit_code == 0
    report = judged_vector("elf64-xwing-zstd", policy, 30)
    assert report.exit_code == 11
    assert "retention.destroy_days" in str(report.worst())


def test_released_although_it_was_not_read() -> None:
    """A signed chain by a collector that had this fault: a resumed capture released a page that could not be read, under
    a policy that holds it. Its own words convict it; what it released, and how, is seen."""
    report = judged_vector(FAULTY, None)
    assert report.judgement
    assert [one.rule for one in report.judgement.broken] == ["release.unreadable"]
    found = facts(report, {}, None)
    assert (found.methods, found.released) == ({"phyp"}, Ranges([(0x100000, 0x12B000)]))
    assert (found.unreadable, found.unreadable_bytes) == (Ranges([(0x10A000, 0x10B000)]), 4096)
    assert [name for name, _ in found.signed][:2] == ["vault.dsse.json", "commits/0.dsse.json"]
    assert all(kinds == ["ed25519"] for _, kinds in found.signed)
    lax = Policy.parse("x", changed(BASELINE, {"release.mode": '"none"', "release.unreadable": '"release"'}))
    assert [one.rule for one in lax.broken(found)] == ["release.mode"]


def test_a_collector_that_holds_what_it_could_not_read(scene: Scene) -> None:
    """The same story told by today's collector, phyp and a bad page, obeys the policy; the page is not released."""
    end, bad = 0x1000000 + 64 // 3 * 4096, 0x2000 + 4096
    sysfs = scene.home.path / "phyp"
    (sysfs / "kernel").mkdir(parents=True)
    areas = f"DUMP:{end - 0x4000:#x}-0x4000, 0x1000000-{end - 0x4000 - 0x1000000:#x}:"
    (sysfs / "kernel/release_region").write_text(f"CPU:{end - 0x6000:#x}-0x800: HPTE:{end - 0x5000:#x}-0x800: {areas}")
    vmcore = write_core(scene.home.path / "vmcore", 64, seed=99)
    shutil.rmtree(scene.home.path / "run", ignore_errors=True)  # the journal of a boot that is over
    with unreadable(bad):
        ran = scene.home.call(
            "capture", vmcore, *ARGUMENTS, "--vmcore", vmcore, "--sysfs", sysfs, "--region-size", "32K",
            "--store", scene.home.path / "phyp/store",
        )  # fmt: skip
    assert ran.code == 14, clean(ran)  # no PT_LOAD describes low memory here, so the area of its copy stays reserved
    site = Site.load(scene.home.env)
    report = verify(
        site.store(str(scene.home.path / "phyp/store")),
        ran.out.strip(),
        site.trust.allowed_signers(),
        judge=Judge(site, "baseline"),
    )
    assert report.exit_code == 0
    found = facts(report, {}, None)
    assert found.released
    assert found.unreadable.total == 4096
    assert not found.released & found.unreadable


@pytest.mark.parametrize(("changes", "bad", "words"), [
    ({}, 65536, "4096 bytes that could not be read"), ({"release.undescribed": '"hold"'}, None, "no program header describes"),
])  # fmt: skip
def test_fadump_frees_nothing_that_is_to_be_held(
    scene: Scene, changes: dict[str, str], bad: int | None, words: str
) -> None:
    """It frees everything at once, so where the policy holds a page it is not done; the vault is whole, and exit is 14."""
    ran, folder = fadump(scene, changes, bad)
    assert (ran.code, words in clean(ran)) == (14, True), clean(ran)
    assert (folder / "sys/kernel/fadump_release_mem").read_text() == ""
    assert scene.home.call("verify", "latest", "--store", folder / "store").code == 0


def test_policy_list_and_show(scene: Scene) -> None:
    """Shipped and own policies, each with its description; what cannot be used is said, and is exit 1."""
    ran = scene.home.call("policy", "list", "--json")
    assert {row["name"] for row in ran.json["policies"]} >= set(SHIPPED)
    assert ran.code == 0
    bad = scene.home.path / "policies" / "bad.toml"
    bad.write_text("format = 9\n")
    ran = scene.home.call("policy", "list")
    assert (ran.code, "line 1: format is 9; allowed: 1, 2" in ran.out) == (1, True)
    bad.unlink()
    shown = scene.home.call("policy", "show", "pci-dss-4", "--json").json
    assert set(shown["rules"]) == {rule.name for rule in RULES}
    assert scene.home.call("policy", "show", "pci-dss-4", "--text").out == shipped_text("pci-dss-4")
    assert "quorum.needed" in scene.home.call("policy", "show").out


def test_policy_check_of_an_empty_site(tmp_path: Path) -> None:
    """What is not there cannot be told; the code is that of the key that is missing."""
    home = Home(tmp_path)
    assert home.call("init").code == 0
    ran = home.call("policy", "check", "--json")
    states = {line["state"] for line in ran.json["rules"] if line["rule"].startswith(("recipients", "signatures"))}
    assert (ran.code, states) == (12, {"unknown"})
    assert not (tmp_path / "store" / "vaults").exists()


@pytest.fixture(autouse=True)
def _no_leftovers(scene: Scene) -> Iterator[None]:
    yield
    (scene.home.path / "copy").unlink(missing_ok=True)
