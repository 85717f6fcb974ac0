"""The vectors open with a reader that shares no code with dumpvault, and no longer do once anything is changed."""

import ast
import hashlib
import importlib.util
import json
import shutil
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor

from dumpvault.flows.combining import Approvals, agree
from dumpvault.flows.verify import verify
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.kem import SUITES
from dumpvault.formats.private_key import PrivateKey, parse, unprotected
from dumpvault.stages.onetime import OneTimeKeys
from dumpvault.stages.store import open_store
from support import flat
from support.command import Home

SOURCE = Path(__file__).with_name("reader.py")
spec = importlib.util.spec_from_file_location("second_reader", SOURCE)
assert spec is not None and spec.loader is not None
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)

CASES = sorted(path.parent for path in SOURCE.parent.glob("*/case.json"))
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def about(case: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((case / "case.json").read_text())
    return found


def opener(case: Path) -> Any:
    """What opens a case: a private key, or under dual control what custodians answered."""
    if (case / "recipient.key").exists():
        return (case / "recipient.key").read_bytes()
    files = lambda folder: {path.name: path.read_bytes() for path in sorted((case / folder).iterdir())}  # noqa: E731
    request = (case / "request.json").read_bytes()
    return reader.Answered(request, files("approvals"), files("onetime"), about(case)["moment"])


def read(case: Path, opened_with: Any = None) -> Any:
    using = opened_with or opener(case)
    return reader.read_vault(case / "store", about(case)["vault"], (case / "allowed_signers").read_text(), using)


def copied(case: Path, to: Path) -> tuple[Path, Path]:
    """A copy to tamper with, and the folder of its objects."""
    copy = Path(shutil.copytree(case, to / case.name))
    return copy, copy / "store" / "vaults" / about(case)["vault"]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def refuses(name: str) -> Any:
    return pytest.raises(reader.Refused, match=f"^{name}[:#]")


def test_there_are_cases() -> None:
    assert CASES


def test_reader_is_independent() -> None:
    nodes = list(ast.walk(ast.parse(SOURCE.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported
    assert "dumpvault" not in {name.split(".")[0] for name in imported}


@each_case
def test_opens(case: Path) -> None:
    opened, stated = read(case), about(case)
    assert opened.data == (case / "source").read_bytes()
    assert len(opened.data) == stated["size"]
    assert opened.finished is stated["finished"]
    assert opened.regions == stated["regions"]
    assert opened.foreign == []
    dump = case / "dump"
    assert opened.dump == (dump.read_bytes() if dump.exists() else None)


@each_case
@pytest.mark.parametrize("at", [0, 24, 56, -33, -1], ids=["salt", "commitment", "chunk", "tag", "list"])
def test_refuses_a_changed_region(case: Path, at: int, tmp_path: Path) -> None:
    copy, objects = copied(case, tmp_path)
    flip(objects / "regions/1/0.sealed", at)
    with refuses("regions/1/0.sealed"):
        read(copy)


@each_case
def test_refuses_a_shortened_region(case: Path, tmp_path: Path) -> None:
    copy, objects = copied(case, tmp_path)
    path = objects / "regions/1/0.sealed"
    path.write_bytes(path.read_bytes()[:-1])
    with refuses("regions/1/0.sealed"):
        read(copy)


@each_case
@pytest.mark.parametrize("name", ["vault.dsse.json", "commits/0.dsse.json", "keybag/1.json"])
def test_refuses_a_changed_object(case: Path, name: str, tmp_path: Path) -> None:
    copy, objects = copied(case, tmp_path)
    flip(objects / name, 300)  # within the payload, or what is sealed to the recipient
    with refuses(name):
        read(copy)


@each_case
def test_a_changed_tip(case: Path, tmp_path: Path) -> None:
    """Under a manifest it is refused; without one it is foreign and ends the chain (section 13, step 2)."""
    copy, objects = copied(case, tmp_path)
    flip(objects / "commits/1.dsse.json", 300)
    if about(case)["finished"]:
        with refuses("commits/1.dsse.json"):
            read(copy)
    else:
        opened = read(copy)
        assert (opened.data, opened.regions) == (b"", 0)
        assert {"commits/1.dsse.json", "keys/1/1.json", "regions/1/0.sealed"} <= set(opened.foreign)


@each_case
@pytest.mark.parametrize("name", ["vault.dsse.json", "keybag/1.json", "keys/1/1.json", "regions/1/0.sealed"])
def test_refuses_a_missing_object(case: Path, name: str, tmp_path: Path) -> None:
    copy, objects = copied(case, tmp_path)
    (objects / name).unlink()
    with refuses(name):
        read(copy)


@each_case
def test_the_rest_of_a_vault(case: Path, tmp_path: Path) -> None:
    """What one can do without a key: strip the manifest, add objects, change the sidecar, drop the roles."""
    copy, objects = copied(case, tmp_path)
    (objects / "regions/1/99.sealed").write_bytes(b"")
    assert read(copy).foreign == ["regions/1/99.sealed"]

    trust = copy / "allowed_signers"
    lines = trust.read_text()
    trust.write_text(lines.replace("collector", "collector@elsewhere"))
    with refuses("vault.dsse.json"):
        read(copy)
    trust.write_text(lines.replace("dumpvault-commit@v1", "dumpvault-*"))
    with refuses("commits/0.dsse.json"):
        read(copy)
    trust.write_text(lines)

    if about(case)["finished"]:
        sidecar = objects / "manifest.json.sig"
        if sidecar.exists():
            flip(sidecar, 200)
            with refuses("manifest.json.sig"):
                read(copy)
        else:  # none of its signers is of a kind that a stock tool can check
            sidecar.write_bytes(b"junk")
            assert read(copy).foreign == ["manifest.json.sig", "regions/1/99.sealed"]
        (objects / "manifest.dsse.json").unlink()
        opened = read(copy)
        assert opened.data == (case / "source").read_bytes() and not opened.finished
        assert opened.foreign == ["manifest.json", "manifest.json.sig", "regions/1/99.sealed"]


@pytest.mark.parametrize("name", ["vault", "commits/0", "commits/1", "manifest"])
@pytest.mark.parametrize("entry", range(4))
def test_each_of_several_signatures_counts(name: str, entry: int, tmp_path: Path) -> None:
    """One bad signature of four spoils an object; without its line of trust it does not count and spoils nothing."""
    copy, objects = copied(SOURCE.parent / "signed-all-four", tmp_path)
    path = objects / f"{name}.dsse.json"
    envelope = json.loads(path.read_text())
    signature = envelope["signatures"][entry]["sig"]
    envelope["signatures"][entry]["sig"] = signature[:40] + ("A" if signature[40] != "A" else "B") + signature[41:]
    path.write_text(json.dumps(envelope, sort_keys=True, separators=(",", ":")))
    with refuses(f"{name}.dsse.json"):
        read(copy)
    if name == "manifest":
        trust = copy / "allowed_signers"
        lines = trust.read_text().splitlines(keepends=True)
        del lines[entry]
        trust.write_text("".join(lines))
        assert read(copy).finished


@each_case
def test_refuses_another_key(case: Path) -> None:
    other = CASES[CASES.index(case) - 1]
    with refuses("keybag/1.json"):
        read(case, opener(other))


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":1}', '{"a":-1}', '{"a":1.0}', '{"a":1e1}', '{"a":NaN}', '{"a":2147483648}', '{"a":"\\ud800"}', "{}",
     '{"a":"1"}', '{"a":true}', '{"a":1,"b":1}', '{"a":1}x', '\ufeff{"a":1}', "[" * 17 + "]" * 17, "[" * 99999,
     '"' * 99999],
)  # fmt: skip
def test_json_is_strict(text: str) -> None:
    assert reader.load("object", b' {"a": 1}', {"a": int}) == {"a": 1}
    with refuses("object"):
        reader.load("object", b' {"a": 1}', {"a": int}, canonical=True)
    with refuses("object"):
        reader.load("object", text.encode(), {"a": int})


@pytest.mark.parametrize("length", [0, 1, 16383, 16384, 16385, 40000])
def test_chunks_agree_with_the_library(length: int) -> None:
    """The lengths at which the last chunk is empty or nearly full are not among the vectors."""
    plain, dek = bytes(length), b"k" * 32
    encryptor = Cobblestone256Encryptor(dek, b"context")
    message = encryptor.update(plain) + encryptor.finalize()
    assert reader.decrypt("region", message, dek, b"context") == plain
    last = 56 + length // 16384 * 16400  # where the last chunk begins
    torn = message[:30] + bytes([message[30] ^ 1]) + message[31:]
    for wrong in (message[:last], message[:-1], message + b"\0", torn):
        with refuses("region"):
            reader.decrypt("region", wrong, dek, b"context")
    for other, context in ((b"K" * 32, b"context"), (dek, b"Context")):
        with pytest.raises(reader.Refused, match="commitment"):
            reader.decrypt("region", message, other, context)


def raw_frame(data: bytes, start: bytes) -> bytes:
    """A frame of one raw block, RFC 8878 section 3.1.1, behind the header bytes given."""
    return b"\x28\xb5\x2f\xfd" + start + (len(data) << 3 | 1).to_bytes(3, "little") + data


def seekable(frames: list[tuple[bytes, int]]) -> bytes:
    table = b"".join(struct.pack("<II", len(frame), size) for frame, size in frames)
    head, foot = struct.pack("<II", 0x184D2A5E, len(table) + 9), struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
    return b"".join(frame for frame, _ in frames) + head + table + foot


SINGLE = b"\x60" + (4096 - 256).to_bytes(2, "little")  # single segment, two bytes of content size
FULL, LAST = (raw_frame(b"a" * 4096, SINGLE), 4096), (raw_frame(b"b" * 8, b"\x20\x08"), 8)
WRONG: dict[str, Callable[[], bytes]] = {
    "a byte behind": lambda: seekable([FULL, LAST]) + b"\0",
    "a byte behind a frame": lambda: seekable([FULL, (LAST[0] + b"\0", 8)]),
    "frames the other way round": lambda: seekable([LAST, FULL]),
    "a frame too few": lambda: seekable([FULL]),
    "a frame too many": lambda: seekable([FULL, LAST, LAST]),
    "a checksum descriptor": lambda: seekable([FULL, LAST])[:-5] + b"\x80" + seekable([FULL, LAST])[-4:],
    "no content size": lambda: seekable([FULL, (raw_frame(b"b" * 8, b"\0\0"), 8)]),
    "another content size": lambda: seekable([FULL, (raw_frame(b"b" * 8, b"\x20\x07"), 8)]),
    "a window of 8192": lambda: seekable([(raw_frame(b"a" * 4096, b"\x40\x18" + SINGLE[1:]), 4096), LAST]),
    "a dictionary id": lambda: seekable([FULL, (raw_frame(b"b" * 8, b"\x21\0\x08"), 8)]),
    "a skippable frame": lambda: seekable([FULL, (b"\x50\x2a\x4d\x18\0\0\0\0", 8)]),
    "data shorter than declared": lambda: seekable([FULL, (raw_frame(b"b" * 7, b"\x20\x08"), 8)]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_frames_are_checked(wrong: str) -> None:
    whole = b"a" * 4096 + b"b" * 8
    assert reader.decode("region", seekable([FULL, LAST]), len(whole), 4096) == (whole, b"")
    window = (raw_frame(b"a" * 4096, b"\x40\x10" + SINGLE[1:]), 4096)  # a window of 4096 is small enough
    assert reader.decode("region", seekable([window, LAST]), len(whole), 4096) == (whole, b"")
    with refuses("region"):
        reader.decode("region", WRONG[wrong](), len(whole), 4096)


@pytest.mark.parametrize("honest", flat.HONEST, ids=lambda case: f"{case[0]}-{case[2][8]}")
def test_indexes_are_read(honest: tuple[int, bytes, bytes]) -> None:
    offset, data, index = honest
    assert reader.read_index("region", index, offset, data).state == index[8]


@pytest.mark.parametrize("lie", flat.LIES, ids=lambda lie: lie[0])
def test_indexes_are_checked(lie: tuple[str, int, bytes, bytes]) -> None:
    """What dumpvault refuses of an index, the page alone refuses too."""
    _, offset, data, index = lie
    with refuses("region"):
        reader.read_index("region", index, offset, data)


def test_neighbours_are_compared() -> None:
    """Of a stream that ends in its second slice: what goes on, and what does not."""
    of, data = reader.Index, bytes(20000)
    first = (0, "a", of(0, [(4112, 7, 4080)]))  # a record that goes on behind 8192
    good = (8192, "b", of(1, [(0, 4087, 10)]))
    assert len(reader.reassemble(data, [first, good])) == 4097
    for wrong in (of(1, [(0, 4088, 10)]), of(1, [(1, 4087, 10)]), of(1, [(15, 4087, 10)])):
        with refuses("b"):
            reader.reassemble(data, [first, (8192, "b", wrong)])
    for wrong in (of(1, [(0, 5000, 10)]), of(2, [])):
        with refuses("c"):
            reader.reassemble(data, [first, good, (12288, "c", wrong)])
    split = (0, "a", of(0, [(4112, 7, 4064)]))  # a record's 16 bytes end at 8192
    assert reader.reassemble(data, [split, (8192, "b", of(1, [(0, 5, 10)]))]) is not None
    with refuses("b"):
        reader.reassemble(data, [split, (8192, "b", of(1, []))])
    assert reader.reassemble(data, [first]) is None
    assert reader.reassemble(data, [first, (8192, "b", of(3, []))]) is None


SHARED = next(case for case in CASES if (case / "request.json").exists())


def answered(**changes: Any) -> Any:
    whole = opener(SHARED)
    return reader.Answered(**{name: changes.get(name, getattr(whole, name)) for name in whole.__dataclass_fields__})


def test_approvals_are_needed() -> None:
    """Two open it; one does not, nor does anything judged too late, nor a custodian's share under another's name."""
    whole = opener(SHARED)
    assert len(whole.approvals) == 2
    for name, data in whole.approvals.items():
        with refuses("approvals"):
            read(SHARED, answered(approvals={name: data}))
    alice, bob = whole.approvals["alice.json"], whole.approvals["bob.json"]
    with refuses("again"):
        read(SHARED, answered(approvals={"alice.json": alice, "again": alice}))
    assert read(SHARED, answered(approvals={"b": bob, "a": alice})).finished
    for moment, name in ((_hours(whole.moment, 25), "request"), (_hours(whole.moment, 9), "alice.json")):
        with refuses(name):
            read(SHARED, answered(moment=moment))
    with refuses("alice.json"):
        read(SHARED, answered(keys=whole.keys | {"x25519.key": _fresh()}))


@pytest.mark.parametrize("name", ["request", "alice.json", "bob.json"])
def test_refuses_changed_requests_and_approvals(name: str) -> None:
    """Every 37th byte: the payload, the signature, the key id, what stands around them."""
    whole = opener(SHARED)
    data = whole.request if name == "request" else whole.approvals[name]
    for at in range(0, len(data), 37):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with refuses(name):
            if name == "request":
                read(SHARED, answered(request=changed))
            else:
                read(SHARED, answered(approvals=whole.approvals | {name: changed}))


def _hours(moment: str, hours: int) -> str:
    at = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ") + timedelta(hours=hours)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _fresh() -> bytes:
    """Another private key of the same suite."""
    suite = SUITES["x25519"]
    return unprotected(PrivateKey("other", "recipient", "x25519", suite.generate()[0]))


def test_dumpvault_opens_the_vector_by_its_approvals(tmp_path: Path) -> None:
    """As it will have to as long as the format lives: judged at the vector's moment, its one-time keys put in place."""
    whole = opener(SHARED)
    moment = datetime.strptime(whole.moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    trust = AllowedSigners((SHARED / "allowed_signers").read_text())
    onetime = OneTimeKeys(str(tmp_path / "requests"))
    keys = [parse(data, name) for name, data in whole.keys.items()]
    onetime.add(hashlib.sha256(whole.request).hexdigest(), whole.request, keys)
    store = open_store(str(SHARED / "store"))
    report = verify(store, about(SHARED)["vault"], trust, moment=moment)
    assert report.verdict == "intact"
    agreement = agree(report, Approvals(list(whole.approvals.items()), onetime))
    assert (agreement.custodians, agreement.request.reason) == (("alice", "bob"), "a vector")
    assert set(agreement.open()) == {1}


CHANGED = SOURCE.parent / "changed-by-officer"


def changed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHANGED / "changed.json").read_text())
    return found


def read_changed(case: Path, key: str = "recipient.key", grant: str = "") -> Any:
    data = (case / grant).read_bytes() if grant else None
    signers, private = (case / "allowed_signers").read_text(), (case / key).read_bytes()
    return reader.read_vault(case / "store", changed()["vault"], signers, private, data)


def copy_changed(to: Path) -> tuple[Path, Path]:
    copy = Path(shutil.copytree(CHANGED, to / "case"))
    return copy, copy / "store" / "vaults" / changed()["vault"]


def without(indexes: set[int]) -> bytes:
    """The source with zeros in these regions, which are 32 KiB each but for headers and notes."""
    data = bytearray((CHANGED / "source").read_bytes())
    starts = [0, 4096, *range(8192, len(data), 32768), len(data)]
    for index in indexes:
        data[starts[index] : starts[index + 1]] = bytes(starts[index + 1] - starts[index])
    return bytes(data)


def test_changed_by_an_officer() -> None:
    """After two rewraps, a grant and a shred: the one who stays opens what is left, and the vault is intact."""
    opened = read_changed(CHANGED)
    assert (opened.finished, opened.foreign, opened.shredded) == (True, [], 2)
    assert opened.data == without(set(changed()["shredded"]))
    with refuses(r"keybag/1\.2-[0-9a-f]{16}\.json"):
        read_changed(CHANGED, "removed.key")


def test_a_grant_alone(tmp_path: Path) -> None:
    """Without a key object and without other regions' bodies; region 3 was shredded after it was granted."""
    copy, objects = copy_changed(tmp_path)
    for folder in ("keys", "keybag"):
        shutil.rmtree(objects / folder)
    (objects / "regions/1/4.sealed").unlink()
    granted = set(changed()["granted"])
    opened = read_changed(copy, "vendor.key", "grant.json")
    assert opened.data == without(set(range(changed()["regions"])) - granted)
    assert opened.recorded
    with refuses("grant"):
        read_changed(copy, "recipient.key", "grant.json")
    flip(copy / "grant.json", 300)
    with refuses("grant"):
        read_changed(copy, "vendor.key", "grant.json")


def test_the_record_of_a_grant(tmp_path: Path) -> None:
    """A copy that ends before the event opens by it; one of whose events says otherwise does not."""
    copy, objects = copy_changed(tmp_path)
    for number in (3, 2, 1):
        (objects / f"events/{number}.dsse.json").unlink()
    older = read_changed(copy, "vendor.key", "grant.json")
    assert (older.recorded, older.shredded) == (False, 0)
    assert read_changed(copy, "vendor.key", "unrecorded.json").recorded is False
    with refuses("grant"):
        read_changed(CHANGED, "vendor.key", "unrecorded.json")


@pytest.mark.parametrize("folder", ["events", "keys/1", "keybag"])
def test_changed_objects_of_an_officer(folder: str, tmp_path: Path) -> None:
    """Each of them flipped or gone is refused, and so is any event once the officer is not trusted."""
    names = sorted(path.name for path in copy_changed(tmp_path / "names")[1].joinpath(folder).iterdir())
    for name in names:
        copy, objects = copy_changed(tmp_path / name)
        flip(objects / folder / name, 200)
        with pytest.raises(reader.Refused):
            read_changed(copy)
        (objects / folder / name).unlink()
        with pytest.raises(reader.Refused):
            read_changed(copy)
    copy, _ = copy_changed(tmp_path / "trust")
    trust = copy / "allowed_signers"
    trust.write_text(trust.read_text().replace("dumpvault-rewrap@v1", "dumpvault-audit@v1"))
    with refuses("events/0.dsse.json"):
        read_changed(copy)


def test_what_stands_beyond_the_events(tmp_path: Path) -> None:
    """Junk under a later number is foreign; this vault's own event there tells that one is missing."""
    copy, objects = copy_changed(tmp_path)
    (objects / "events/9.dsse.json").write_bytes(b"junk")
    shutil.copy(objects / "vault.dsse.json", objects / "events/8.dsse.json")
    assert read_changed(copy).foreign == ["events/8.dsse.json", "events/9.dsse.json"]
    shutil.copy(objects / "events/1.dsse.json", objects / "events/9.dsse.json")
    with refuses("events/4.dsse.json"):
        read_changed(copy)


def test_events_need_a_manifest(tmp_path: Path) -> None:
    copy, objects = copy_changed(tmp_path)
    (objects / "manifest.dsse.json").unlink()
    with refuses("events/0.dsse.json"):
        read_changed(copy)


def test_dumpvault_reads_it_too(tmp_path: Path) -> None:
    """The program and the page agree on what the officer changed."""
    home = Home(tmp_path / "home")
    assert home.call("init").code == 0
    common = (changed()["vault"], "--store", CHANGED / "store", "--allowed-signers", CHANGED / "allowed_signers")
    told = home.call("verify", *common, "--json")
    assert (told.code, told.json["shredded_regions"]) == (0, 2)
    for key, more, left in (
        ("recipient.key", (), without(set(changed()["shredded"]))),
        ("vendor.key", ("--grant", CHANGED / "grant.json"), without(set(range(changed()["regions"])) - {0, 1})),
        ("vendor.key", ("--grant", CHANGED / "unrecorded.json"), None),
    ):
        private = shutil.copy(CHANGED / key, tmp_path / key)
        Path(private).chmod(0o600)
        out = tmp_path / "out"
        ran = home.call("open", *common, "--key", private, *more, "--partial", "--force", "-o", out)
        assert (ran.code, out.read_bytes() if out.exists() else None) == (3 if left else 10, left), ran.err
        out.unlink(missing_ok=True)
