"""Header, commits, manifest and events: round trips, and every field held to its type."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dumpvault.errors import Forged
from dumpvault.formats.commit import Adopt, Body, Commit, Ended, Outcome, Regions, Release, Takeover
from dumpvault.formats.dsse import Envelope, Statement
from dumpvault.formats.elf import Load
from dumpvault.formats.event import Event, Granted, KeysObject, Released, Rewrap, Run, Shred
from dumpvault.formats.grant import Grant
from dumpvault.formats.header import ElfFacts, Header, Listed, PolicyText, Source
from dumpvault.formats.manifest import AttemptTotals, Manifest, Totals
from dumpvault.formats.sshkey import SigningKey
from dumpvault.model import Range, RegionRecord
from kit import KEY, OTHER, VAULT, get, parent_of, paths, wrong_values

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
TIME = "2026-11-23T12:00:00Z"
SOURCE = Source("elf", "/proc/vmcore", 1 << 40, 123, A, ElfFacts(64, "little", 62), (Load(4096, 1 << 20, 65536),))
HEADER = Header(
    VAULT, TIME, "dumpvault 0.1", "db1", "boot", SOURCE, 64 << 20, 65536, PolicyText("baseline", "a = 1\n"),
    (KEY.signer, OTHER.signer), (Listed("ops", "xwing", A), Listed("lab", "p384", B)),
)  # fmt: skip
RECORD = RegionRecord(3, 65536, 8192, "memory", "zstd", 900, A, B, (Range(65536, 4096), Range(69632, 4096)))
BODIES: list[Body] = [
    Takeover(A, None, "dumpvault 0.1"),
    Regions(
        (RECORD, replace(RECORD, index=4, unreadable=())), (Release("phyp", 0, 1 << 30),), (Outcome(1, 0, "failed"),)
    ),
    Adopt(7),
    Ended("asked to"),
]
MANIFEST = Manifest(
    VAULT, TIME, 5, A, Totals(1 << 40, 9, 1 << 39, 4096), "elf", False,
    (AttemptTotals(1, None, 4, 5), AttemptTotals(2, "boot", 5, 6)),
)  # fmt: skip
EVENT = Event(VAULT, 2, A, B, TIME, Released("fadump", "released"))
SHRED = Event(VAULT, 2, A, B, TIME, Shred("asked to", (Run(1, 0, 3),), (KeysObject(1, 1, A), KeysObject(1, 2, None))))
REWRAP = Event(
    VAULT,
    2,
    A,
    B,
    TIME,
    Rewrap((Listed("ops", "xwing", A), Listed("lab", "p384", B)), ((1, A),), (KeysObject(1, 1, B),)),
)
GRANTED = Event(VAULT, 2, A, B, TIME, Granted(Listed("vendor", "x25519", A), (Run(1, 0, 3), Run(1, 7, 7)), B))
FILE = Grant(VAULT, A, B, TIME, 5, Listed("vendor", "x25519", A), (Run(1, 0, 3),), bytes(80))
ALL = Event(VAULT, 2, A, B, TIME, Shred("asked to", None, ()))


def commit(body: Body) -> Commit:
    return Commit(VAULT, 4, A, B, 2, TIME, body)


def envelope(statement: Statement) -> Envelope:
    return Envelope("the object", statement.encode(), ())


def read_commit(statement: Statement) -> Commit:
    return Commit.read(envelope(statement), VAULT, 4, A, B)


# name: (statement, how to read it, what it reads as)
STATEMENTS: dict[str, tuple[Statement, Callable[[Statement], Any], Any]] = {
    "header": (HEADER.statement(), lambda s: Header.read(envelope(s), VAULT), HEADER),
    "manifest": (MANIFEST.statement(), lambda s: Manifest.read(envelope(s), VAULT), MANIFEST),
    "event": (EVENT.statement(), lambda s: Event.read(envelope(s), "release", VAULT, 2, A, B), EVENT),
    "shred": (SHRED.statement(), lambda s: Event.read(envelope(s), "shred", VAULT, 2, A, B), SHRED),
    "rewrap": (REWRAP.statement(), lambda s: Event.read(envelope(s), "rewrap", VAULT, 2, A, B), REWRAP),
    "grant": (GRANTED.statement(), lambda s: Event.read(envelope(s), "grant", VAULT, 2, A, B), GRANTED),
    "shred-all": (ALL.statement(), lambda s: Event.read(envelope(s), "shred", VAULT, 2, A, B), ALL),
} | {f"commit-{body.kind}": (commit(body).statement(), read_commit, commit(body)) for body in BODIES}

# Where null may stand, by the spec's tables.
NULLABLE = {("body", "regions"), ("body", "keys", 0, "sha256"), ("body", "keys", 1, "sha256"),
            ("boot_id",), ("source", "size"), ("source", "mtime"), ("source", "identity"), ("body", "boot_id"),
            ("attempts", 0, "boot_id"), ("attempts", 1, "boot_id")}  # fmt: skip


CASES = [(name, path) for name, (s, _, _) in STATEMENTS.items() for path in paths(s.predicate)]
FIELDS = [(name, path) for name, path in CASES if isinstance(path[-1], str)]
HOLDERS = [(name, ()) for name in STATEMENTS] + [
    (name, path) for name, path in CASES if isinstance(get(STATEMENTS[name][0].predicate, path), dict)
]


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_are_read_as_they_were_written(name: str) -> None:
    """What is written is read back equal, and so is what was read when it is written again."""
    statement, read, value = STATEMENTS[name]
    assert read(statement) == value
    assert read(statement).statement() == statement
    assert read(Statement(statement.type, statement.subject, statement.digest, dict(statement.predicate))) == value


@pytest.mark.parametrize(("name", "path"), FIELDS, ids=str)
def test_no_field_may_be_missing(name: str, path: tuple[Any, ...]) -> None:
    """Each field of each object, taken away alone, makes the object refused by its name."""
    statement, read, _ = STATEMENTS[name]
    predicate = copy.deepcopy(statement.predicate)
    del parent_of(predicate, path)[path[-1]]
    with pytest.raises(Forged, match=r"^the object"):
        read(replace(statement, predicate=predicate))


@pytest.mark.parametrize(("name", "path"), CASES, ids=str)
def test_no_field_may_have_another_type(name: str, path: tuple[Any, ...]) -> None:
    """Each field and each array entry is refused with every other JSON type."""
    statement, read, _ = STATEMENTS[name]
    for wrong in wrong_values(get(statement.predicate, path), nullable=path in NULLABLE):
        predicate = copy.deepcopy(statement.predicate)
        parent_of(predicate, path)[path[-1]] = wrong
        with pytest.raises(Forged, match=r"^the object"):
            read(replace(statement, predicate=predicate))


@pytest.mark.parametrize(("name", "path"), HOLDERS, ids=str)
def test_no_object_may_have_a_field_more(name: str, path: tuple[Any, ...]) -> None:
    """Each object of each statement, given one field more, is refused by that field's name."""
    statement, read, _ = STATEMENTS[name]
    predicate = copy.deepcopy(statement.predicate)
    (get(predicate, path) if path else predicate)["zz"] = 1
    with pytest.raises(Forged, match=r"^the object.*'zz'"):
        read(replace(statement, predicate=predicate))


@pytest.mark.parametrize("name", STATEMENTS)
def test_subject_and_type_are_bound(name: str) -> None:
    """Another subject name, another subject digest or another statement type is refused."""
    statement, read, _ = STATEMENTS[name]
    for change in ({"subject": "other"}, {"digest": C}, {"type": "approval"}, {"predicate": []}):
        with pytest.raises(Forged, match=r"^the object"):
            read(replace(statement, **change))


def changed(name: str, *path: Any, to: Any) -> None:
    statement, read, _ = STATEMENTS[name]
    predicate = copy.deepcopy(statement.predicate)
    assert get(predicate, path) != to
    parent_of(predicate, path)[path[-1]] = to
    read(replace(statement, predicate=predicate))


R = ("commit-regions", "body", "regions", 0)


@pytest.mark.parametrize(("name", "path", "to"), [
    ("header", ("format",), 2), ("header", ("vault",), C[:32]), ("header", ("created",), "2026-11-23"),
    ("header", ("region_size",), "0x0"), ("header", ("region_size",), "0x800"), ("header", ("region_size",), "0x1001"),
    ("header", ("region_size",), "0x10001000"), ("header", ("frame_size",), "0x800"), ("header", ("frame_size",), "0x3000"),
    ("header", ("frame_size",), "0x200000"), ("header", ("policy", "text"), "a = 2\n"), ("header", ("policy", "sha256"), A),
    ("header", ("signers",), []), ("header", ("recipients",), []), ("header", ("signers", 0, "keyid"), OTHER.signer.keyid),
    ("header", ("signers", 0, "key"), "ssh-rsa AAAA"), ("header", ("recipients", 0, "suite"), "rsa"),
    ("header", ("recipients", 0, "name"), "a b"), ("header", ("recipients", 0, "name"), ""),
    ("header", ("recipients", 0, "sha256"), A.upper()), ("header", ("source", "kind"), "raw"),
    ("header", ("source", "kind"), "opaque"), ("header", ("source", "elf"), None),
    ("header", ("source", "elf", "endian"), "big\n"), ("header", ("source", "size"), "0x00"),
    ("manifest", ("format",), 0), ("manifest", ("vault",), C[:32]), ("manifest", ("head", "commit"), 4),
    ("manifest", ("head", "sha256"), B), ("manifest", ("end",), "eof "), ("manifest", ("attempts",), []),
    ("manifest", ("size",), "1"), ("event", ("format",), 2), ("event", ("number",), 1), ("event", ("previous",), B),
    ("event", ("vault",), C[:32]), ("event", ("body", "method"), "kexec"), ("event", ("body", "result"), "maybe"),
    ("commit-adopt", ("format",), 2), ("commit-adopt", ("vault",), C[:32]), ("commit-adopt", ("number",), 5),
    ("commit-adopt", ("previous",), C), ("commit-adopt", ("attempt",), 0), ("commit-adopt", ("kind",), "ended"),
    ("commit-adopt", ("kind",), "shred"), ("commit-takeover", ("body", "keybag"), "x"),
    (R[0], (*R[1:], "offset"), "0x10001"), (R[0], (*R[1:], "length"), "0x0"), (R[0], (*R[1:], "length"), "0x10000001"),
    (R[0], (*R[1:], "kind"), "Memory"), (R[0], (*R[1:], "codec"), "lz4"), (R[0], (*R[1:], "blocks"), A[:-1]),
    (R[0], (*R[1:], "message"), "0x40000000"), (R[0], (*R[1:], "unreadable", 0, "offset"), "0x0"),
    (R[0], (*R[1:], "unreadable", 0, "length"), "0x0"), (R[0], (*R[1:], "unreadable", 0, "length"), "0x1001"),
    (R[0], (*R[1:], "unreadable", 1, "length"), "0x1001"), (R[0], ("body", "releases", 0, "method"), "other"),
    (R[0], ("body", "outcomes", 0, "result"), ""),
], ids=str)  # fmt: skip
def test_values_outside_the_spec_are_refused(name: str, path: tuple[Any, ...], to: Any) -> None:
    """Right types with values that the spec's tables exclude are refused, naming the object."""
    with pytest.raises(Forged, match=r"^the object"):
        changed(name, *path, to=to)


@pytest.mark.parametrize("value", [0, 1, 48])
def test_the_elf_class_is_32_or_64(value: int) -> None:
    """Section 6: class is the number 32 or 64."""
    with pytest.raises(Forged):
        changed("header", "source", "elf", "class", to=value)


def test_a_commit_lists_at_most_1024_regions() -> None:
    """Section 15: 1024 records fit, one more is refused."""
    regions = tuple(replace(RECORD, index=i) for i in range(1025))
    assert read_commit(commit(Regions(regions[:1024])).statement()).body == Regions(regions[:1024])
    with pytest.raises(Forged, match="0 to 1024"):
        read_commit(commit(Regions(regions)).statement())


@pytest.mark.parametrize(("signers", "recipients", "fits"), [(16, 128, True), (17, 1, False), (1, 129, False)])
def test_a_header_lists_at_most_16_signers_and_128_recipients(signers: int, recipients: int, fits: bool) -> None:
    """Sections 6 and 15: the numbers of signers and recipients are bounded."""
    header = replace(
        HEADER,
        signers=tuple(SigningKey(bytes([i]) * 32).signer for i in range(signers)),
        recipients=(HEADER.recipients[0],) * recipients,
    )
    if fits:
        assert Header.read(envelope(header.statement()), VAULT) == header
    else:
        with pytest.raises(Forged, match="not an array of"):
            Header.read(envelope(header.statement()), VAULT)


def test_sources_of_every_kind_are_read_back() -> None:
    """Flattened and opaque sources, pipes without size, and unknown memory are read as written."""
    for source in (Source("flattened", "x", 5, None, None, None), Source("opaque", "-", None, None, None, None)):
        header = replace(HEADER, source=source, boot_id=None)
        assert Header.read(envelope(header.statement()), VAULT) == header


def test_a_grant_is_read_as_it_was_written() -> None:
    """The file of a grant, and every field of it held to its type and its presence."""
    statement = FILE.statement()
    assert Grant.read(envelope(statement)) == FILE
    for path in paths(statement.predicate):
        for wrong in [*wrong_values(get(statement.predicate, path)), KeyError]:
            predicate = copy.deepcopy(statement.predicate)
            if wrong is KeyError and isinstance(path[-1], str):
                del parent_of(predicate, path)[path[-1]]
            else:
                parent_of(predicate, path)[path[-1]] = None if wrong is KeyError else wrong
            with pytest.raises(Forged, match=r"^the object"):
                Grant.read(envelope(replace(statement, predicate=predicate)))
    for change in ({"subject": "other"}, {"type": "grant"}):
        with pytest.raises(Forged, match=r"^the object"):
            Grant.read(envelope(replace(statement, **change)))
