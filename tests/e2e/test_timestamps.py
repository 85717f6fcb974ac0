"""RFC 3161 timestamps through the installed command, by a real ``openssl ts`` responder, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("rfc3161_client", reason="needs the extra dumpvault[timestamp]")
if shutil.which("openssl") is None:
    pytest.skip("needs openssl", allow_module_level=True)

from dumpvault.errors import Forged, NoKey
from dumpvault.formats import timestamp
from support.command import Home, make_home
from support.enforcement import changed, shipped_text
from support.tsa import Authority, serve
from support.vmcore import write_core
from support.words import clean


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("a") / "tsa")


@pytest.fixture
def home(tmp_path: Path, authority: Authority) -> Home:
    home = make_home(tmp_path / "site")
    (home.path / "keys/tsa").mkdir()
    shutil.copy(authority.root, home.path / "keys/tsa/test.pem")
    core = write_core(tmp_path / "vmcore", 64)
    assert home.call("capture", core, "--recipient", "analyst", "--signer", "collector").code == 0
    return home


def test_demanded_made_verified_and_read_by_openssl(home: Home, authority: Authority) -> None:
    """A policy refuses the vault until it is timestamped; stock openssl then accepts the stored object."""
    policy = home.path / "policies/stamped.toml"
    policy.write_text(changed(shipped_text("baseline"), {"timestamps.demanded": '"rfc3161"'}))
    before = home.run("open", "latest", "-o", home.path / "copy", "--policy", "stamped")
    assert before.code == 11, before.err
    assert "timestamps.demanded" in clean(before)
    assert "dumpvault timestamp" in clean(before)
    with serve(authority.reply) as url:
        made = home.run("timestamp", "latest", "--tsa", url, "--json")
    assert made.code == 0, made.err
    assert home.run("open", "latest", "-o", home.path / "copy", "--policy", "stamped").code == 0
    verified = home.run("verify", "latest", "--policy", "stamped", "--json").json
    assert (verified["verdict"], verified["foreign"], len(verified["timestamps"])) == ("intact", [], 1)
    report = home.run("report", "latest", "-o", home.path / "report.html", "--policy", "stamped", "--json")
    assert report.json["vaults"][0]["timestamps"]["state"] == "verified"
    assert "the manifest existed by" in (home.path / "report.html").read_text()
    (folder,) = home.vaults.iterdir()
    done = subprocess.run(
        ["openssl", "ts", "-verify", "-in", folder / made.json["object"], "-data", folder / "manifest.dsse.json",
         "-CAfile", authority.root], capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_signer_that_ended_after_the_timestamp_is_good_and_a_revoked_one_is_not(
    home: Home, authority: Authority
) -> None:
    with serve(authority.reply) as url:
        assert home.call("timestamp", "latest", "--tsa", url).code == 0
    signers = home.path / "keys/allowed_signers"
    text = signers.read_text()
    ended = datetime.now(UTC) + timedelta(seconds=2)
    option = f'valid-before="{ended:%Y%m%d%H%M%SZ}",namespaces='
    signers.write_text(text.replace("namespaces=", option))
    while datetime.now(UTC) <= ended:
        time.sleep(0.1)
    assert home.call("verify", "latest").code == 0
    shutil.move(home.path / "keys/tsa", home.path / "tsa")
    without = home.call("verify", "latest")
    assert without.code == 10, clean(without)
    assert "no timestamp authority is trusted" in clean(without)
    shutil.move(home.path / "tsa", home.path / "keys/tsa")
    key = next(line for line in text.splitlines() if "dumpvault-header" in line).split(" ")
    (home.path / "keys/revoked_keys").write_text(" ".join(key[-2:]) + "\n")
    assert home.call("verify", "latest").code == 10


def test_a_checkpoint_is_timestamped(home: Home, authority: Authority) -> None:
    """What the authority saw anchors entries and openings; openssl reads it; one over another checkpoint proves nothing."""
    policy = home.path / "policies/anchored.toml"
    policy.write_text(changed(shipped_text("baseline"), {"custody.anchor": '"timestamp"'}))
    opening = ("open", "latest", "-o", home.path / "copy", "--force", "--policy", "anchored")
    ran = home.call(*opening)
    assert (ran.code, "custody.anchor" in clean(ran)) == (11, True)
    assert home.call("keys", "new", "signer", "eve", "--role", "witness", "--unprotected").code == 0
    assert home.call("custody", "sequence").code == 0
    with serve(authority.reply) as url:
        ran = home.call("custody", "witness", "--tsa", url, "--json")
    assert ran.code == 0, clean(ran)
    assert ran.json["timestamp"]["source"].startswith("RFC 3161")
    told = home.call("custody", "verify", "--json").json
    assert [one["size"] for one in told["cosigned"]] == [1, 1]
    time.sleep(1.1)  # the opening's own time is in whole seconds, and must be later
    assert home.call(*opening).code == 0
    (stamp,) = (home.path / "store/ledger/timestamps/1").iterdir()
    text = home.path / "text"
    text.write_text("".join((home.path / "store/ledger/checkpoints/1").read_text().splitlines(keepends=True)[:3]))
    done = subprocess.run(
        ["openssl", "ts", "-verify", "-in", stamp, "-data", text, "-CAfile", authority.root],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    other = home.path / f"store/ledger/timestamps/3/{stamp.name}"
    other.parent.mkdir()
    shutil.copy(stamp, other)
    told = home.call("custody", "verify", "--json").json
    assert [one["size"] for one in told["cosigned"]] == [1, 1]
    assert told["others"] == ["ledger/checkpoints/3: 1 of 1 that vouch for it prove nothing here"]


@pytest.mark.parametrize(("status", "kind", "body", "words"), [
    (500, "application/timestamp-reply", b"", "HTTP 500"), (302, "application/timestamp-reply", b"", "not followed"),
    (200, "text/html", b"<p>", "text/html"), (200, "application/timestamp-reply", b"0" * 70000, "more than 65536"),
    (200, "application/timestamp-reply", b"", "cannot be read"),
    (200, "application/timestamp-reply", b"\x30\x83", "cannot be read"),
])  # fmt: skip
def test_bad_answers_store_nothing(home: Home, status: int, kind: str, body: bytes, words: str) -> None:
    with serve(lambda query: body, status, kind) as url:
        ran = home.call("timestamp", "latest", "--tsa", url)
    assert ran.code in (1, 10), clean(ran)
    assert words in clean(ran)
    (folder,) = home.vaults.iterdir()
    assert not (folder / "timestamps").exists()


def test_nobody_there_no_url_and_a_replayed_answer(home: Home, authority: Authority) -> None:
    (folder,) = home.vaults.iterdir()
    manifest = (folder / "manifest.dsse.json").read_bytes()
    old = authority.reply(timestamp.request(manifest)[0])
    with serve(lambda query: old) as url:
        ran = home.call("timestamp", "latest", "--tsa", url)
    assert (ran.code, "Nonce mismatch" in clean(ran)) == (10, True), clean(ran)
    assert home.call("timestamp", "latest", "--tsa", "http://127.0.0.1:9/").code == 1
    assert home.call("timestamp", "latest", "--tsa", "ftp://x/").code == 2
    assert home.call("timestamp", "latest").code == 2
    assert not (folder / "timestamps").exists()


def test_junk_under_timestamps_is_foreign(home: Home) -> None:
    (folder,) = home.vaults.iterdir()
    (folder / "timestamps").mkdir()
    (folder / "timestamps/junk.tsr").write_bytes(b"junk")
    ran = home.call("verify", "latest", "--json")
    assert (ran.code, ran.json["foreign"], ran.json["timestamps"]) == (0, ["timestamps/junk.tsr"], [])


def test_what_proves_nothing(tmp_path: Path, authority: Authority) -> None:
    """Other bytes, every truncation, flipped bytes, another root, no roots; and a chain in any order."""
    now = datetime.now(UTC) + timedelta(hours=1)
    roots = [authority.root.read_bytes()]
    reply = authority.reply(timestamp.request(b"data")[0])
    assert timestamp.check(reply, b"data", roots, now, "x").time <= now
    with pytest.raises(Forged, match="other bytes"):
        timestamp.check(reply, b"date", roots, now, "x")
    with pytest.raises(NoKey):
        timestamp.check(reply, b"data", [], now, "x")
    for size in range(0, len(reply), 7):
        with pytest.raises(Forged):
            timestamp.check(reply[:size], b"data", roots, now, "x")
    with pytest.raises(Forged):
        timestamp.check(reply[:-1] + bytes([reply[-1] ^ 1]), b"data", roots, now, "x")
    other = Authority(tmp_path / "other", middle=True)
    with pytest.raises(Forged):
        timestamp.check(reply, b"data", [other.root.read_bytes()], now, "x")
    chained = other.reply(timestamp.request(b"data")[0])
    assert timestamp.check(chained, b"data", [other.root.read_bytes()], now, "x").source.count("CN=mid") == 1
