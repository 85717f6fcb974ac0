"""What is recorded comes first: no key is unwrapped, and nothing put, before the entry that says so is durable; and what
happens where the entry cannot be written, by whether the policy requires it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dumpvault.flows import unlocking
from dumpvault.stages.store import open_store
from support.command import Home, make_home, seal
from support.enforcement import changed, shipped_text
from support.ledgers import entries, kinds, traced, unwritable
from support.logged import LINES, logged_core
from support.mounted import mounted
from support.words import clean

WHY = ("--reason", "it died", "--ticket", "INC-7")


@dataclass(frozen=True)
class Scene:
    """A home with everything in it; ``vault`` is one recipient's, ``shared`` two custodians'."""

    home: Home
    vmcore: Path
    vault: str
    shared: str

    def entries(self) -> list[dict[str, Any]]:
        return entries(open_store(str(self.home.path / "store")))

    def policy(self, **rules: str) -> Path:
        path = self.home.path / "policies" / "strict.toml"
        text = changed(shipped_text("baseline"), {f"custody.{rule}": value for rule, value in rules.items()})
        path.write_text(text)
        return path

    def last(self, count: int) -> list[tuple[Any, ...]]:
        """Event, role, purpose and ticket of the last entries."""
        return [tuple(one[key] for key in ("event", "role", "purpose", "ticket")) for one in self.entries()[-count:]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("recording")
    home = make_home(folder / "site")
    for name in ("alice", "bob"):
        assert home.call("keys", "new", "custodian", name, "--unprotected").code == 0
        assert home.call("keys", "new", "signer", f"{name}-s", "--role", "custodian", "--unprotected").code == 0
    for role in ("analyst", "officer"):
        assert home.call("keys", "new", "signer", f"{role}-s", "--role", role, "--unprotected").code == 0
    assert home.call("keys", "new", "recipient", "vendor", "--unprotected").code == 0
    vmcore = folder / "vmcore"
    vmcore.write_bytes(logged_core())
    shared = home.call("capture", vmcore, "--quorum", "2of2:alice,bob", "--signer", "collector")
    assert shared.code == 0, shared.err
    return Scene(home, vmcore, seal(home, vmcore), shared.out.strip())


@pytest.fixture(autouse=True)
def no_copy(scene: Scene) -> Iterator[None]:
    yield
    (scene.home.path / "copy").unlink(missing_ok=True)


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    """Within, ``path`` is not there."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)


def without_ledger(scene: Scene) -> AbstractContextManager[object]:
    """A store that never had one, to this home."""
    stack = ExitStack()
    stack.enter_context(moved_away(scene.home.path / "store/ledger"))
    stack.enter_context(moved_away(scene.home.path / "ledgers"))
    return stack


def without_actor(scene: Scene) -> AbstractContextManager[object]:
    """A home that has no key to sign entries with."""
    (key,) = (scene.home.path / "private").glob("*_*.key")
    return moved_away(key)


def opening(scene: Scene, command: str, *more: object) -> list[object]:
    """The words that open ``scene.vault`` by ``command``."""
    words: dict[str, list[object]] = {
        "open": ["open", scene.vault, "-o", scene.home.path / "copy"],
        "dmesg": ["dmesg", "--json", scene.vault],
        "drgn": ["drgn", "--no-default-symbols", "-e", "pass", *more, scene.vault],
    }
    return [*words[command], *(() if command == "drgn" else more)]


@pytest.mark.parametrize("command", ["open", "dmesg"])
def test_opened_then_keys_then_plaintext_then_closed(scene: Scene, command: str) -> None:
    with traced() as steps:
        ran = scene.home.call(*opening(scene, command, *WHY))
    assert ran.code == 0, clean(ran)
    order = kinds(steps)
    assert order[0] == "entry opened"
    assert order[1] == "unwrap"
    assert order[-1] == "entry closed"
    assert "body" in order
    begun, ended = scene.entries()[-2:]
    assert scene.last(2) == [(event, "analyst", "it died", "INC-7") for event in ("opened", "closed")]
    manifest = (scene.home.vaults / scene.vault / "manifest.dsse.json").read_bytes()
    name = f"vaults/{scene.vault}/manifest.dsse.json"
    digests = [hashlib.sha256(manifest).hexdigest(), hashlib.sha384(manifest).hexdigest()]
    assert begun["subject"] == ended["subject"] == [name, digests[0]]
    assert begun["sha384"] == ended["sha384"] == digests[1]
    assert begun["detail"] == {"how": command}
    last = max(int(path.name) for path in (scene.home.path / "store/ledger/entries").iterdir())
    entry = scene.home.path / f"store/ledger/entries/{last - 1}"
    assert ended["detail"]["opened"] == hashlib.sha256(entry.read_bytes()).hexdigest()
    sealed = sum(path.stat().st_size for path in (scene.home.vaults / scene.vault / "regions").rglob("*.sealed"))
    assert 0 < int(ended["detail"]["bytes"]) <= sealed
    assert (int(ended["detail"]["bytes"]) == sealed) == (command == "open")
    assert ended["detail"]["regions"].startswith("1/0")


def test_the_order_changed_is_found(scene: Scene) -> None:
    """The same look at a reader that unwraps first, and records after: so the test above can fail."""
    whole = unlocking.unlock_vault

    def late(*arguments: Any, **more: Any) -> Any:
        *others, begin = arguments
        unlocked = whole(*others, **more)
        begin(unlocked.report)
        return unlocked

    with mock.patch("dumpvault.flows.open.unlock_vault", late), traced() as steps:
        assert scene.home.call(*opening(scene, "open")).code == 0
    assert kinds(steps)[:2] == ["unwrap", "entry opened"]


def test_under_dual_control(scene: Scene) -> None:
    """request and approve are recorded, the share is not unwrapped before; open says what the request says."""
    request, approvals = scene.home.path / "request.json", []
    with traced() as steps:
        ran = scene.home.call("request", scene.shared, *WHY, "-o", request, "--signer", "analyst-s")
        assert ran.code == 0, clean(ran)
        for name in ("alice", "bob"):
            answer = scene.home.path / f"{name}.json"
            ran = scene.home.call("approve", request, "--yes", "--signer", f"{name}-s", "--key", name, "-o", answer)
            assert ran.code == 0, clean(ran)
            approvals += ["--approvals", answer]
        ran = scene.home.call("open", scene.shared, "-o", scene.home.path / "copy", *approvals)
    assert ran.code == 0, clean(ran)
    order = kinds(steps)
    assert order[:5] == ["entry requested", "entry approved", "unwrap", "entry approved", "unwrap"]
    assert order[5:7] == ["entry opened", "unwrap"]
    assert scene.last(5) == [
        (event, role, "it died", "INC-7")
        for event, role in (
            ("requested", "analyst"), ("approved", "custodian"), ("approved", "custodian"), ("opened", "analyst"),
            ("closed", "analyst"),
        )
    ]  # fmt: skip
    digest = hashlib.sha256(request.read_bytes()).hexdigest()
    assert [one["detail"] for one in scene.entries()[-5:-2]] == [{"request": digest}] * 3


def test_officers_changes(scene: Scene) -> None:
    """grant, rewrap, shred: the entry is durable before a key is unwrapped and before anything of the vault is put."""
    vault = seal(scene.home, scene.vmcore)
    certificate = scene.home.path / "certificate.json"
    for event, words in (
        ("granted", ("grant", vault, "--dmesg", "--to", "vendor", "-o", scene.home.path / "grant.json")),
        ("rewrapped", ("rewrap", vault, "--add", "vendor")),
        ("shredded", ("shred", vault, "--regions", "0", "--yes", "-o", certificate)),
    ):
        with traced() as steps:
            ran = scene.home.call(*words, *WHY, "--signer", "officer-s")
        assert ran.code == 0, clean(ran)
        assert kinds(steps)[0] == f"entry {event}", steps
        assert "put events" in steps
        assert scene.last(1) == [(event, "officer", "it died", "INC-7")]
    count = len(scene.entries())
    ran = scene.home.call(
        "open", vault, "-o", scene.home.path / "copy", "--grant", scene.home.path / "grant.json", "--partial"
    )
    assert [one["event"] for one in scene.entries()[count:]] == ["opened", "closed"]


def test_verify_records_its_verdict(scene: Scene) -> None:
    before = len(scene.entries())
    assert scene.home.call("verify", scene.vault).code == 0
    assert len(scene.entries()) == before
    assert scene.home.call("verify", scene.vault, "--record").code == 0
    assert scene.last(1) == [("verified", "auditor", None, None)]
    assert scene.entries()[-1]["detail"] == {"verdict": "intact"}


def test_verifying_with_a_key_is_an_opening(scene: Scene) -> None:
    """It unwraps keys, so it is recorded before it does, and refused where that is demanded and cannot be."""
    words = ("verify", scene.vault, "--with-key", "analyst")
    with traced() as steps:
        ran = scene.home.call(*words)
    assert ran.code == 0, clean(ran)
    order = kinds([step for step in steps if step != "body"])
    assert order == ["entry opened", "unwrap", "entry closed"]
    assert scene.entries()[-2]["detail"] == {"how": "verify"}
    with traced() as steps, unwritable():
        ran = scene.home.call(*words, "--policy", scene.policy(required="true"))
    assert (ran.code, "custody.required" in clean(ran), "unwrap" in steps) == (11, True, False)
    assert scene.home.call("verify", scene.vault, "--policy", scene.policy(required="true")).code == 0


_CANNOT: dict[str, Callable[[Scene], AbstractContextManager[object]]] = {
    "no ledger": without_ledger, "no actor": without_actor, "unwritable": lambda scene: unwritable(),
}  # fmt: skip


@pytest.mark.parametrize("what", _CANNOT)
@pytest.mark.parametrize("required", [True, False])
def test_what_cannot_be_recorded(scene: Scene, what: str, *, required: bool) -> None:
    """Refused with nothing decrypted where the policy requires it; else done, and told of unless there is no ledger."""
    policy = scene.policy(required="true" if required else "false")
    before = len(scene.entries())
    for command in ("open", "dmesg"):
        with traced() as steps, _CANNOT[what](scene):
            ran = scene.home.call(*opening(scene, command, "--policy", policy))
        said = clean(ran)
        if required:
            assert (ran.code, "custody.required" in said, steps.count("unwrap"), "records" in ran.out) == (
                11,
                True,
                0,
                False,
            ), said
            assert not (scene.home.path / "copy").exists()
        else:
            assert ran.code == 0, said
            assert said.count("not in the ledger") == (what != "no ledger")
            assert command == "open" or len(ran.json["records"]) == len(LINES)
    assert len(scene.entries()) == before


def test_entries_are_signed_as_the_policy_allows(scene: Scene) -> None:
    """Where custody is demanded, with a key of its kinds, beside the others; else with what there is."""
    text = changed(shipped_text("baseline"), {"signatures.kinds": '["mldsa87"]', "custody.required": "true"})
    policy = scene.home.path / "policies/kinds.toml"
    made = scene.home.call("keys", "new", "signer", "sealer", "--algorithm", "mldsa87", "--unprotected")
    assert made.code == 0, clean(made)
    policy.write_text(text)
    words = ("capture", scene.vmcore, "--recipient", "analyst", "--signer", "sealer", "--policy", policy)
    vault = scene.home.call(*words).out.strip()
    with traced() as steps:
        ran = scene.home.call("dmesg", vault, "--json", "--policy", policy)
    assert (ran.code, "mldsa87" in clean(ran), steps) == (11, True, [])
    made = scene.home.call(
        "keys", "new", "signer", "second", "--role", "actor", "--algorithm", "mldsa87", "--unprotected"
    )
    assert made.code == 0, clean(made)
    ran = scene.home.call("dmesg", vault, "--json", "--policy", policy)
    assert ran.code == 0, clean(ran)
    told = scene.home.call("custody", "log", vault, "--json").json["entries"]
    assert [one["by"] for one in told if one["event"] == "opened"] == ["second"]
    entries = sorted((scene.home.path / "store/ledger/entries").iterdir(), key=lambda path: int(path.name))
    assert len(json.loads(entries[-1].read_text())["signatures"]) == 2
    assert scene.home.call("custody", "verify", "--strict").code == 0
    for name in ("second", "sealer"):
        (scene.home.path / f"private/{name}.key").unlink()


@pytest.mark.parametrize("required", ["true", "false"])
def test_officers_and_custodians_are_refused_alike(scene: Scene, required: str) -> None:
    """By the policy that this site names for the host; the vault is as it was, and no request stays open."""
    policy = scene.policy(required=required)
    config = scene.home.path / "config.toml"
    before = config.read_text()
    config.write_text(f'[policies]\n"*" = "{policy}"\n')
    vault = seal(scene.home, scene.vmcore)
    objects = {path: path.read_bytes() for path in (scene.home.vaults / vault).rglob("*") if path.is_file()}
    out = scene.home.path / f"out-{required}"
    try:
        for words in (
            ("grant", vault, "--notes", "--to", "vendor", "-o", f"{out}-grant"), ("rewrap", vault, "--add", "vendor"),
            ("shred", vault, "--reason", "x", "--regions", "0", "--yes", "-o", f"{out}-shred"),
            ("request", scene.shared, "--reason", "x", "-o", f"{out}-request"),
        ):  # fmt: skip
            with traced() as steps, unwritable():
                signer = "analyst-s" if words[0] == "request" else "officer-s"
                ran = scene.home.call(*words, "--signer", signer)
            assert ran.code == (11 if required == "true" else 0), clean(ran)
            assert ("custody.required" if required == "true" else "warning: not in the ledger") in clean(ran)
            assert required == "false" or not steps
    finally:
        config.write_text(before)
    if required == "true":
        assert not list(out.parent.glob(f"{out.name}-*"))
        assert {p: p.read_bytes() for p in (scene.home.vaults / vault).rglob("*") if p.is_file()} == objects


def rolled_back(root: Path) -> None:
    for folder in ("entries", "checkpoints"):
        for path in sorted((root / folder).iterdir(), key=lambda path: int(path.name))[-2:]:
            path.unlink()


def truncated(root: Path) -> None:
    entries = sorted((root / "entries").iterdir(), key=lambda path: int(path.name))
    entries[-1].unlink()


def exchanged(root: Path) -> None:
    path = root / "ledger.json"
    path.write_text(path.read_text().replace('"ledger-', '"another-'))


@pytest.mark.parametrize("change", [rolled_back, truncated, exchanged, shutil.rmtree], ids=lambda f: f.__name__)
@pytest.mark.parametrize("required", ["true", "false"])
def test_a_ledger_that_is_not_what_it_was_is_always_refused(
    scene: Scene, change: Callable[[Path], None], required: str
) -> None:
    root = scene.home.path / "store/ledger"
    assert scene.home.call(*opening(scene, "dmesg")).code == 0
    policy = scene.policy(required=required)
    with moved_away(root):
        shutil.copytree(root.with_name("ledger.aside"), root)
        change(root)
        for words in (
            opening(scene, "open", "--policy", policy),
            ["rewrap", scene.vault, "--add", "vendor", "--signer", "officer-s"],
        ):
            with traced() as steps:
                ran = scene.home.call(*words)
            assert (ran.code, steps, (scene.home.path / "copy").exists()) == (10, [], False), clean(ran)
    assert scene.home.call(*opening(scene, "open", "--policy", policy)).code == 0


def test_anchors_at_opening(scene: Scene) -> None:
    """Nothing covers the manifest; then a checkpoint does; then a witness has cosigned one from before the first opening."""
    vault = seal(scene.home, scene.vmcore)
    policies = {}
    for anchor in ("checkpoint", "witness"):
        policies[anchor] = scene.policy(anchor=f'"{anchor}"').rename(scene.home.path / f"{anchor}.toml")

    def ran(anchor: str) -> tuple[int, bool, bool]:
        with traced() as steps:
            told = scene.home.call("dmesg", vault, "--json", "--policy", policies[anchor])
        return told.code, "custody.anchor" in clean(told), bool(steps)

    assert ran("checkpoint") == (11, True, False)
    assert scene.home.call("custody", "sequence").code == 0
    assert ran("witness") == (11, True, False)
    assert scene.home.call("keys", "new", "signer", "eve", "--role", "witness", "--unprotected").code == 0
    done = scene.home.call("custody", "witness")
    assert done.code == 0, clean(done)
    for _ in range(2):
        assert ran("witness") == (0, False, True)
        assert ran("checkpoint") == (0, False, True)
    # What was opened before anybody vouched for it is not mended by a witness who comes later.
    late = seal(scene.home, scene.vmcore)
    assert scene.home.call("dmesg", late, "--json").code == 0
    assert scene.home.call("custody", "witness").code == 0
    assert scene.home.call("dmesg", late, "--json", "--policy", policies["witness"]).code == 11
    assert scene.home.call("verify", late, "--policy", policies["witness"]).code == 0


def test_a_refused_opening_leaves_no_entry(scene: Scene) -> None:
    """No key, another rule broken: nothing was about to be opened."""
    before = len(scene.entries())
    strict = scene.home.path / "policies/many.toml"
    strict.write_text(changed(shipped_text("baseline"), {"recipients.minimum": "3"}))
    assert scene.home.call(*opening(scene, "open", "--policy", strict)).code == 11
    assert scene.home.call(*opening(scene, "open", "--key", "vendor")).code == 12
    assert len(scene.entries()) == before


def test_a_failed_opening_is_closed(scene: Scene) -> None:
    """A region that was exchanged: opened and closed both stand, and say how far it got."""
    vault = seal(scene.home, scene.vmcore)
    (body,) = list((scene.home.vaults / vault / "regions").rglob("0.sealed"))
    data = bytearray(body.read_bytes())
    data[100] ^= 1
    body.chmod(0o600)
    body.write_bytes(data)
    assert scene.home.call("open", vault, "-o", scene.home.path / "copy").code == 10
    assert [one["event"] for one in scene.entries()[-2:]] == ["opened", "closed"]
    assert scene.entries()[-1]["detail"]["regions"] != "none"


def test_killed_between_entry_and_opening(scene: Scene, tmp_path: Path) -> None:
    """The process is killed as the first key is to be unwrapped: the entry is there, and nothing else is."""
    script = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from dumpvault.formats.kem import KemSuite
KemSuite.open = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from dumpvault.cli import main
main(["open", {scene.vault!r}, "-o", {str(tmp_path / "copy")!r}])
"""
    before = len(scene.entries())
    done = subprocess.run([sys.executable, "-c", script], env=scene.home.env, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [one["event"] for one in scene.entries()[before:]] == ["opened"]
    assert os.listdir(tmp_path) == []
    assert scene.entries()[before]["detail"] == {"how": "open"}


def test_a_purpose_is_not_needed(scene: Scene) -> None:
    assert scene.home.call(*opening(scene, "dmesg")).code == 0
    assert scene.last(2) == [("opened", "analyst", None, None), ("closed", "analyst", None, None)]


def test_nothing_is_lost_where_closing_cannot_be_recorded(scene: Scene) -> None:
    """What was opened stays opened; that its end is not recorded is told."""
    assert scene.home.call("custody", "sequence").code == 0
    with unwritable(after=1):
        ran = scene.home.call(*opening(scene, "open", "--policy", scene.policy(required="true")))
    assert ran.code == 0, clean(ran)
    assert "ledger" in clean(ran)
    assert (scene.home.path / "copy").read_bytes() == scene.vmcore.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_mount_that_is_ended_says_what_was_read(scene: Scene, tmp_path: Path, number: signal.Signals) -> None:
    """By any signal that it can act on; killed outright, it leaves ``opened`` alone."""
    before = len(scene.entries())
    with mounted(scene.home, scene.vault, tmp_path / "mount", *WHY) as mount:
        assert [one["event"] for one in scene.entries()[before:]] == ["opened"]
        data = (mount / "vmcore").read_bytes()
        assert data == scene.vmcore.read_bytes()
        mount.stop(number)
    told = scene.entries()[before:]
    assert told[0]["detail"] == {"how": "mount"}
    if number == signal.SIGKILL:
        assert len(told) == 1
    else:
        assert [one["event"] for one in told] == ["opened", "closed"]
        assert int(told[1]["detail"]["bytes"]) > 0
        assert told[1]["detail"]["regions"].startswith("1/0")
