"""The custody commands: what they print and prove, and what Go's own transparency log packages say of it."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dumpvault.formats import merkle
from dumpvault.formats.note import SIGNATURE, key_id
from dumpvault.stages.ledger import Ledger
from dumpvault.stages.store.local import LocalStore
from support.command import Home, Ran, make_home, seal
from support.tampered import Scene, make_scene
from support.vmcore import write_core
from support.words import clean


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("custody"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The check in Go, against the packages of Debian's golang-golang-x-mod-dev."""
    packages = Path("/usr/share/gocode/src/golang.org/x/mod/sumdb")
    if shutil.which("go") is None or not packages.is_dir():
        pytest.skip("NOT TESTED against Go's tlog: needs Debian's golang-go and golang-golang-x-mod-dev")
    folder = tmp_path_factory.mktemp("go")
    env = os.environ | {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(folder / "cache"),
                        "GOFLAGS": "-mod=mod"}  # fmt: skip
    env.pop("GOFLAGS")
    source = Path(__file__).parents[1] / "support/tlog.go"
    subprocess.run(["go", "build", "-o", folder / "tlog", source], env=env, check=True)
    return folder / "tlog"


def vkey(scene: Scene) -> str:
    """The log's key as signed-note writes it for verifiers."""
    public = scene.log.signer.public
    name = key_id(scene.origin, SIGNATURE, public).hex()
    return f"{scene.origin}+{name}+{base64.b64encode(bytes([SIGNATURE]) + public).decode()}"


def go(program: Path, *words: object) -> bool:
    return subprocess.run([program, *map(str, words)], capture_output=True, check=False).returncode == 0


def test_proofs_are_good_to_go(scene: Scene, program: Path, tmp_path: Path) -> None:
    """Of every entry; a changed record, index, hash, root or signature is refused by Go and by dumpvault."""
    checkpoint = scene.sizes()[-1]
    for number in range(checkpoint):
        path = tmp_path / f"{number}.tlog-proof"
        ran = scene.home.call("custody", "prove", scene.vault, "--entry", number, "-o", path)
        assert ran.code == 0, clean(ran)
        assert go(program, vkey(scene), "inclusion", path)
        assert scene.home.call("custody", "check", path).code == 0
    lines = (tmp_path / "3.tlog-proof").read_text().splitlines(keepends=True)
    gap = lines.index("\n")
    for at in (1, 2, 3, gap - 1, gap + 2, gap + 3, len(lines) - 1):
        words = lines[at].split(" ")
        word = words[-1].removesuffix("\n")
        words[-1] = (
            str(int(word) + 1) if word.isdigit() else ("B" if word[9] == "A" else "A").join((word[:9], word[10:]))
        ) + "\n"
        changed = tmp_path / "changed"
        changed.write_text("".join([*lines[:at], " ".join(words), *lines[at + 1 :]]))
        assert not go(program, vkey(scene), "inclusion", changed), lines[at]
        ran = scene.home.call("custody", "check", changed)
        assert ran.code == 10, (lines[at], clean(ran))


def test_checkpoints_are_consistent_to_go(scene: Scene, program: Path, tmp_path: Path) -> None:
    leaves = [merkle.leaf_hash(scene.entry(i)) for i in range(scene.size)]
    nodes = lambda height, i: merkle.subtree(leaves[i << height : (i + 1) << height])  # noqa: E731
    sizes, proof = scene.sizes(), tmp_path / "proof"
    for old in sizes:
        for new in sizes:
            hashes = merkle.prove_consistency(nodes, old, new) if old <= new else []
            proof.write_text("".join(base64.b64encode(one).decode() + "\n" for one in hashes))
            found = go(
                program, vkey(scene), "consistency", *(scene.root / f"checkpoints/{n}" for n in (old, new)), proof
            )
            assert found == (old <= new)


def test_a_mirror_is_a_log_to_go(scene: Scene, program: Path, tmp_path: Path) -> None:
    """Tiles and bundles, full and partial; more is added by the next; one byte changed, and Go refuses it."""
    scene = scene.copied(tmp_path / "site")
    made = Ledger.of(LocalStore(str(scene.home.path / "store")), [scene.log.signer])
    assert made
    folder = tmp_path / "mirror"
    for count in (0, 250, 300):
        for number in range(count):
            made.append(b"%d" % number, scene.log, None, lambda data, name: True)
        ran = scene.home.call("custody", "mirror", folder, "--json")
        assert ran.code == 0, clean(ran)
        assert go(program, vkey(scene), "tiles", folder)
    assert ran.json["size"] > 512
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"checkpoint", "tile/0/000", "tile/0/001", "tile/entries/000", "tile/1/000.p/2"} <= names
    for name in ("tile/entries/001", "tile/0/000", "checkpoint"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
        assert not go(program, vkey(scene), "tiles", folder), name
        (folder / name).write_bytes(data)
    (folder / "tile/0/000").write_bytes(b"else")
    ran = scene.home.call("custody", "mirror", folder)
    assert (ran.code, "another file stands there" in ran.err) == (1, True)


def test_proof_travels(scene: Scene, tmp_path: Path) -> None:
    """Offline, in a home that has nothing but public keys; the witness says by when."""
    assert scene.home.call("custody", "witness").code == 0
    proof = tmp_path / "p.tlog-proof"
    assert scene.home.call("custody", "prove", scene.vault, "-o", proof).code == 0
    auditor = Home(tmp_path / "auditor")
    signers = scene.home.path / "keys/allowed_signers"
    ran = auditor.run("custody", "check", proof, "--allowed-signers", signers, "--json")
    assert ran.code == 0, ran.err
    told = ran.json
    assert (told["event"], told["vault"], told["by"]) == ("collected", scene.vault, "collector")
    assert told["entry"] in (0, 1)
    assert [one["witness"] for one in told["cosigned"]] == ["eve"]
    ran = auditor.run("custody", "check", proof, "--allowed-signers", signers)
    assert "seen: eve by 20" in ran.out
    ran = auditor.run("custody", "check", proof)
    assert ran.code == 12, "who trusts nobody learns nothing"
    nobody = tmp_path / "nobody"
    nobody.write_text("")
    assert auditor.run("custody", "check", proof, "--allowed-signers", nobody).code == 10


def test_log_tells_in_order(scene: Scene) -> None:
    told = scene.home.call("custody", "log", scene.vault, "--json").json
    events = [one["event"] for one in told["entries"]]
    assert events == ["collected", "opened", "closed", "verified", "rewrapped"]
    assert told["entries"][1]["purpose"] == "it died"
    assert told["entries"][0]["seen_by_others"], "eve has cosigned a checkpoint that covers it"
    text = scene.home.call("custody", "log").out
    assert "moved" in text
    assert "to the cellar" in text
    assert "(it died) (INC-7)" in text


def test_an_auditor_verifies_with_public_keys_alone(scene: Scene, tmp_path: Path) -> None:
    """From one audit to the next: what was kept is continued, and what this home remembers too."""
    auditor = Home(tmp_path / "auditor")
    where = ("--store", scene.home.path / "store", "--allowed-signers", scene.home.path / "keys/allowed_signers")
    kept = tmp_path / "kept"
    ran = auditor.run("custody", "verify", *where, "--keep", kept, "--json")
    assert (ran.code, ran.json["verdict"]) == (0, "intact"), ran.err
    assert scene.home.call("custody", "record", scene.other, "received", "--from", "the cellar").code == 0
    ran = auditor.run("custody", "verify", *where, "--since", kept)
    assert ran.code == 0, ran.err
    assert "this home's memory of" in ran.out
    assert f"{kept} of" in ran.out.replace("\n", " ")
    ran = auditor.run("custody", "verify", *where, "--since", scene.home.path / "config.toml")
    assert ran.code == 10
    assert "of a note" in ran.err
    ran = auditor.run("custody", "verify", *where, "--record")
    assert ran.code == 12, "an auditor without a key records nothing"
    assert "dumpvault init" in ran.err


def test_who_is_not_listed_is_not_believed(tmp_path: Path) -> None:
    """Two homes on one store: entries of the second count once the first lists its key, and it can only write if it knows
    the log."""
    first, second = make_home(tmp_path / "first", "one"), make_home(tmp_path / "second", "two")
    vault = seal(first, write_core(tmp_path / "vmcore", 16))
    store = ("--store", first.path / "store")
    for name in ("collector", "one"):
        (tmp_path / name).write_text(first.run("keys", "export", name).out)
    where = (vault, "received", *store)
    assert second.call("keys", "import", tmp_path / "collector", "--role", "collector", "--name", "theirs").code == 0
    ran = second.call("custody", "record", *where)
    assert (ran.code, "no trusted key signs checkpoints" in ran.err) == (12, True), clean(ran)
    log = next(name for name in os.listdir(first.path / "private") if name.startswith("log@")).removesuffix(".key")
    (tmp_path / "log").write_text(first.run("keys", "export", log).out)
    assert second.call("keys", "import", tmp_path / "log", "--role", "log").code == 0
    ran = second.call("custody", "record", *where)
    assert ran.code == 0, clean(ran)
    assert [one["why"] for one in first.call("custody", "verify", "--json").json["flagged"]] == [
        "ledger/entries/1: no listed key signed it"
    ]
    (tmp_path / "two").write_text(second.run("keys", "export", "two").out)
    assert first.call("keys", "import", tmp_path / "two", "--role", "actor").code == 0
    told = first.call("custody", "verify", "--json").json
    assert (told["flagged"], told["entries"], told["checkpoint"]) == ([], 2, None), "only the first home can sign one"
    assert first.call("custody", "sequence").code == 0
    assert first.call("custody", "verify", "--strict").code == 0


def test_rotated_keys_are_judged_at_what_others_saw(tmp_path: Path) -> None:
    """An entry by a key that has ended counts if another key has seen it before; a later one does not."""
    home = make_home(tmp_path / "site", "one")
    vault = seal(home, write_core(tmp_path / "vmcore", 16))
    assert home.call("keys", "new", "signer", "eve", "--role", "witness", "--unprotected").code == 0
    assert home.call("custody", "record", vault, "received").code == 0
    assert home.call("custody", "witness").code == 0
    signers = home.path / "keys/allowed_signers"
    line = next(line for line in signers.read_text().splitlines() if line.startswith("one "))
    assert home.call("custody", "record", vault, "moved").code == 0
    signers.write_text(signers.read_text().replace(line, line.replace("one ", 'one valid-before="20200101Z",', 1)))
    flagged = [one["entry"] for one in home.call("custody", "verify", "--json").json["flagged"]]
    assert flagged == [1, 2], "it ended before eve saw the first"
    in_time = line.replace("one ", 'one valid-before="20400101Z",', 1)
    signers.write_text(signers.read_text().replace(line.replace("one ", 'one valid-before="20200101Z",', 1), in_time))
    assert home.call("custody", "verify", "--json", "--strict").code == 0
    at = home.call("custody", "verify", "--json", "--at", "2041-01-01").json
    assert [one["entry"] for one in at["flagged"]] == [2], "nobody had seen the second while the key was valid"


def test_many_commands_of_two_homes_at_once(tmp_path: Path) -> None:
    """Each entry is there once, whoever was first; both homes remember the same ledger at the end."""
    first, second = make_home(tmp_path / "first", "one"), Home(tmp_path / "second")
    vault = seal(first, write_core(tmp_path / "vmcore", 16))
    store = first.path / "store"
    assert second.run("init", "--actor", "two", env={"DUMPVAULT_STORE": str(store)}).code == 0
    lines = [line for home in (first, second) for line in (home.path / "keys/allowed_signers").read_text().splitlines()]
    for home in (first, second):
        (home.path / "keys/allowed_signers").write_text("".join(f"{line}\n" for line in lines))

    def record(number: int) -> Ran:
        home = (first, second)[number % 2]
        return home.run("custody", "record", vault, "moved", "--to", number, "--store", store)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(record, range(12)))
    assert [ran.code for ran in done] == [0] * 12, [ran.err for ran in done if ran.code]
    told = first.call("custody", "log", "--json").json["entries"]
    assert sorted(int(one["to"]) for one in told if one["to"]) == list(range(12))
    assert first.call("custody", "sequence").code == 0
    for home in (first, second):
        ran = home.call("custody", "verify", "--strict", "--json", "--store", store)
        assert (ran.code, ran.json["entries"], ran.json["verdict"]) == (0, 13, "intact"), clean(ran)
    memories = {next((home.path / "ledgers").glob("*.json")).read_text() for home in (first, second)}
    assert len(memories) == 1


def test_a_vault_whose_signer_has_ended_is_judged_at_what_a_witness_saw(tmp_path: Path) -> None:
    """A collector's key ends after the capture: the vault stays good where a witness had seen its manifest before that."""
    home = make_home(tmp_path / "site", "one")
    assert home.call("keys", "new", "signer", "eve", "--role", "witness", "--unprotected").code == 0
    seen = seal(home, write_core(tmp_path / "vmcore", 16))
    assert home.call("custody", "sequence").code == 0
    assert home.call("custody", "witness").code == 0
    unseen = seal(home, tmp_path / "vmcore")
    assert home.call("custody", "sequence").code == 0
    time.sleep(1.1)  # ends of validity are in whole seconds, and so are cosignatures
    assert home.call("keys", "rotate", "collector", "--unprotected").code == 0
    ran = home.call("verify", seen, "--json")
    assert (ran.code, ran.json["timestamps"]) == (0, []), ran.out
    assert "seen by eve" in ran.json["witnessed"]["source"]
    assert "witness: the manifest existed at 20" in home.call("verify", seen).out
    assert home.call("open", seen, "-o", tmp_path / "copy").code == 0
    ran = home.call("verify", unseen)
    assert (ran.code, "was valid only before" in ran.err) == (10, True)
    # Who takes the cosignature away takes that proof away; nothing else speaks for the ended key.
    shutil.rmtree(home.path / "store/ledger/cosignatures")
    assert home.call("verify", seen).code == 10


def test_what_waits_in_the_inbox(tmp_path: Path) -> None:
    """A collector's entry gets a number once; junk, and what a key signed that has ended, is named and left there."""
    home = make_home(tmp_path / "site", "one")
    for _ in range(2):
        seal(home, write_core(tmp_path / "vmcore", 16))
        told = home.call("custody", "sequence", "--json").json
        assert (told["left_out"], home.call("custody", "verify", "--json").json["waiting"]) == ([], 0)
    inbox = home.path / "store/ledger/inbox"
    (inbox / ("0" * 64)).write_bytes(b"junk")
    seal(home, tmp_path / "vmcore")
    time.sleep(1.1)
    assert home.call("keys", "rotate", "collector", "--unprotected").code == 0
    told = home.call("custody", "sequence", "--json").json
    assert told["checkpoint"]["size"] == 2
    assert len(told["left_out"]) == 2
    assert any(one["why"] == "its name is not that of its bytes" for one in told["left_out"])
    assert any("was valid only before" in one["why"] for one in told["left_out"])


def test_a_stolen_log_s_key_is_replaced(scene: Scene, tmp_path: Path) -> None:
    """Revoked, nothing is covered, and nothing lost; the first entry after it is covered by the new key, with all before."""
    scene = scene.copied(tmp_path / "site")
    home, name = scene.home, f"log@{scene.origin}"
    assert home.call("keys", "revoke", name, "--reason", "stolen").code == 0
    ran = home.call("custody", "verify", "--json")
    assert (ran.code, ran.json["verdict"], ran.json["checkpoint"]) == (3, "incomplete", None)
    assert home.call("keys", "new", "signer", f"log-2@{scene.origin}", "--role", "log", "--unprotected").code == 0
    assert home.call("custody", "sequence", "--json").json["checkpoint"] is None, "the old one has that name"
    assert home.call("custody", "record", scene.vault, "received").code == 0
    ran = home.call("custody", "verify", "--json")
    told = ran.json
    assert (ran.code, told["verdict"], told["flagged"]) == (0, "intact", []), ran.out
    assert told["checkpoint"]["size"] == told["entries"] == scene.size


def test_refusals(scene: Scene, tmp_path: Path) -> None:
    home = Home(tmp_path / "nothing")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "vaults").mkdir()
    empty = tmp_path / "signers"
    empty.write_text("")
    for words, code, says in (
        (("custody", "log", "--store", bare, "--allowed-signers", empty), 3, "the store has no ledger"),
        (("custody", "check", tmp_path / "none", "--allowed-signers", empty), 1, "No such file"),
        (("custody", "check", empty, "--allowed-signers", empty), 10, "not a tlog-proof"),
    ):
        ran = home.run(*words)
        assert (ran.code, says in ran.err) == (code, True), ran.err
    for words, code, says in (
        (("custody", "prove", scene.vault, "--entry", "999"), 3, "no checkpoint covers entry 999"),
        (("custody", "record", scene.vault, "opened"), 2, "opened"),
        (("custody", "witness", "--signer", "nobody"), 12, "no witness's key"),
        (("custody", "verify", "--keep", scene.since), 1, "exists and is kept"),
        (("custody", "log", "ffff"), 2, "ffff"),
    ):
        ran = scene.home.call(*words)
        assert (ran.code, says in ran.err + ran.out) == (code, True), (ran.code, ran.err)
