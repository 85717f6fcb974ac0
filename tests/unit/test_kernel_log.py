"""The kernel log read from images whose rings a second implementation wrote: all three kinds, whole, wrapped and broken."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.errors import BadInput, Forged
from dumpvault.formats.image import Image, open_image
from dumpvault.formats.printk import Record, format_record, kernel_log
from kit import limited, reader
from support.crashed import Crashed, crash, elf_core, for_makedumpfile, kdump_compressed
from support.printk_writer import CharacterWriter, LocklessWriter, Message, RecordWriter

ORDERS = {"little": "<", "big": ">"}


def image_of(crashed: Crashed, container: str = "elf") -> Image:
    data = elf_core(crashed) if container == "elf" else kdump_compressed(crashed)
    return open_image(reader(data), len(data))


def read_log(crashed: Crashed, container: str = "elf") -> tuple[list[Record], list[str]]:
    told: list[str] = []
    return list(kernel_log(image_of(crashed, container), told.append)), told


def as_records(messages: list[Message], *, caller: bool = True) -> list[Record]:
    return [Record(m.text, m.nanoseconds, m.caller if caller else None) for m in messages]


def messages(rng: random.Random, count: int, longest: int) -> list[Message]:
    return [
        Message(
            text=rng.randbytes(rng.choice((0, 1, 7, 8, 9, rng.randint(1, longest), rng.randint(1, longest)))),
            nanoseconds=i * 1_234_567 + rng.randrange(1000),
            caller=rng.choice((1, 4711, 1 << 31, 1 << 31 | 3)),
            dictionary=rng.randbytes(rng.randint(0, 9)),
            fate=rng.choice(("finalized", "finalized", "finalized", "committed", "failed")),
        )
        for i in range(count)
    ]


MACHINES: list[tuple[str, dict[str, Any]]] = [
    ("x86_64", {}),
    ("x86_64", {"bits": 57}),
    ("aarch64", {}),
    ("aarch64", {"bits": 39}),
    ("aarch64", {"bits": 52}),
    ("aarch64", {"page_size": 16384, "bits": 47}),
    ("aarch64", {"page_size": 16384, "bits": 48}),
    ("aarch64", {"page_size": 65536, "bits": 42}),
    ("aarch64", {"page_size": 65536, "bits": 52}),
    ("aarch64", {"page_size": 65536, "bits": 48, "built_bits": 52}),
    ("aarch64", {"bits": 48, "built_bits": 52}),
    ("aarch64", {"endian": "big"}),
    ("ppc64", {"page_size": 65536}),
    ("ppc64", {"page_size": 65536, "endian": "big"}),
]


@pytest.mark.parametrize("container", ["elf", "kdump"])
@pytest.mark.parametrize(("machine", "options"), MACHINES, ids=lambda v: v if isinstance(v, str) else str(v))
def test_every_machine_and_container(machine: str, options: dict[str, Any], container: str) -> None:
    """The log is found through the machine's own page tables, of every depth, page size and byte order."""
    writer = LocklessWriter(5, 10, order=ORDERS[options.get("endian", "little")])
    rng = random.Random(7)
    for message in messages(rng, 100, 60):
        writer.log(message)
    records, told = read_log(crash(writer.structures(), machine, **options), container)
    assert records == as_records(writer.survivors())
    assert len(records) > 5
    assert told == []


@given(
    seed=st.integers(0, 2**32),
    desc_bits=st.integers(1, 6),
    text_bits=st.integers(7, 12),
    pad=st.integers(0, 2),
    count=st.integers(0, 200),
    order=st.sampled_from("<>"),
    exact_fit=st.booleans(),
)
def test_the_lockless_ring(
    seed: int, desc_bits: int, text_bits: int, pad: int, count: int, order: str, exact_fit: bool
) -> None:
    """Whatever was logged, however often the rings went round: what is committed and has text is read, in order."""
    rng = random.Random(seed)
    writer = LocklessWriter(desc_bits, text_bits, order=order, pad=pad, exact_fit=exact_fit)
    for message in messages(rng, count, (1 << text_bits) // 2 - 8):
        writer.log(message)
    if rng.random() < 0.3:
        writer.log(Message(b"never committed", fate="reserved"))
    endian: Any = "little" if order == "<" else "big"
    records, told = read_log(crash(writer.structures(), "ppc64", page_size=65536, endian=endian, seed=seed))
    assert records == as_records(writer.survivors())
    assert told == []


@given(
    seed=st.integers(0, 2**32), size=st.sampled_from((256, 1024, 4096)), count=st.integers(0, 200), caller=st.booleans()
)
def test_the_record_buffer(seed: int, size: int, count: int, caller: bool) -> None:
    """Linux 3.5 to 5.9: records with dictionaries, the marker of length 0, the wrap, the caller of 5.1 and later."""
    rng = random.Random(seed)
    order = rng.choice("<>")
    writer = RecordWriter(size, order=order, name=rng.choice(("log", "printk_log")), caller=caller)
    for message in messages(rng, count, size // 4):
        writer.log(message)
    endian: Any = "little" if order == "<" else "big"
    records, told = read_log(crash(writer.structures(), "ppc64", page_size=65536, endian=endian, seed=seed))
    assert records == as_records(writer.survivors(), caller=caller)
    assert told == []


@pytest.mark.parametrize("written", [0, 1, 1023, 1024, 1025, 5000])
def test_the_character_buffer(written: int) -> None:
    """Before Linux 3.5: the last characters as they are, however often the ring went round."""
    text = b"".join(b"<6>[%5d.000000] line\n" % i for i in range(300))[:written]
    writer = CharacterWriter(1024)
    writer.log(text)
    records, told = read_log(crash(writer.structures()))
    assert b"".join(map(format_record, records)) == text[-1024:]
    assert told == []


def test_a_record_is_written_as_makedumpfile_writes_it() -> None:
    """Times, continued lines, escapes and callers."""
    long = 12345 * 10**9 + 999_999_999
    assert format_record(Record(b"plain", 1_234_567_890)) == b"[    1.234567] plain\n"
    assert format_record(Record(b"one\ntwo\n", long)) == b"[12345.999999] one\n               two\n               \n"
    assert format_record(Record(b"\ta\x1b[2J\x00\x7f\xe4\r", 0)) == b"[    0.000000] \ta\\x1b[2J\\x00\\x7f\\xe4\r\n"
    assert format_record(Record(b"x\ny", 0, 7), caller=True) == b"[    0.000000][    T7] x\n                       y\n"
    assert format_record(Record(b"x", 0, 1 << 31 | 12), caller=True) == b"[    0.000000][   C12] x\n"
    assert format_record(Record(b"x", 0, 1 << 31 | 12)) == b"[    0.000000] x\n"
    assert format_record(Record(b"<6>[ 0.0] old\n\x1b", None)) == b"<6>[ 0.0] old\n\x1b"


def makedumpfile_log(data: bytes, folder: Path) -> bytes:
    program = shutil.which("makedumpfile")
    if program is None:
        pytest.skip("NOT TESTED: no makedumpfile here")
    (folder / "vmcore").write_bytes(data)
    (folder / "log").unlink(missing_ok=True)
    done = subprocess.run([program, "--dump-dmesg", "vmcore", "log"], cwd=folder, capture_output=True, check=False)
    assert (folder / "log").is_file(), done.stderr
    return (folder / "log").read_bytes()


@pytest.mark.parametrize("container", ["elf", "kdump"])
@pytest.mark.parametrize("kind", ["lockless", "printk_log", "log", "characters"])
def test_makedumpfile_reads_the_same(kind: str, container: str, tmp_path: Path) -> None:
    """The real makedumpfile on the same dumps, byte for byte: wrapped rings, continued lines, control characters."""
    lines = [b"message %d\nline\t\r two \x01\x1b[0m\x7f" % i for i in range(60)]
    release = {"lockless": "6.1.0", "printk_log": "4.19.0", "log": "3.6.0", "characters": "2.6.32"}[kind]
    if kind == "characters":
        old = CharacterWriter(1024)
        old.log(b"\n".join(lines))
        crashed = crash(old.structures())
    else:
        writer = LocklessWriter(4, 10) if kind == "lockless" else RecordWriter(1024, name=kind)
        for i, line in enumerate(lines):
            writer.log(Message(line, i * 123_456_789))
        crashed = crash(writer.structures())
    for_makedumpfile(crashed, release)
    pages = kdump_compressed(crashed, compressions=("zlib", "none"), phys_base=int(crashed.info["NUMBER(phys_base)"]))
    data = elf_core(crashed) if container == "elf" else pages
    ours = b"".join(map(format_record, kernel_log(open_image(reader(data), len(data)))))
    assert len(ours) >= 1000
    assert makedumpfile_log(data, tmp_path) == ours


def test_no_log_is_refused_by_name() -> None:
    """No VMCOREINFO, none that names a log, entries that are missing or absurd, machines that are not translated."""
    writer = LocklessWriter(4, 8)
    writer.log(Message(b"text"))
    crashed = crash(writer.structures())

    def refused(match: str, **changes: str | None) -> None:
        info = {k: v for k, v in (crashed.info | changes).items() if v is not None}
        text = "".join(f"{k}={v}\n" for k, v in info.items()).encode()
        data = elf_core(crashed, info=text)
        with pytest.raises(BadInput, match=match):
            list(kernel_log(open_image(reader(data), len(data))))

    data = elf_core(crashed, info=b"")
    with pytest.raises(BadInput, match="no VMCOREINFO"):
        kernel_log(open_image(reader(data), len(data)))
    refused("names no kernel log", **{"SYMBOL(prb)": None})
    refused(r"SIZE\(prb_desc\)", **{"SIZE(prb_desc)": None})
    refused(r"SIZE\(prb_desc\)", **{"SIZE(prb_desc)": "0"})
    refused(r"SIZE\(printk_info\)", **{"SIZE(printk_info)": "1000000"})
    refused(r"OFFSET\(prb_desc_ring.head_id\)", **{"OFFSET(prb_desc_ring.head_id)": "x"})
    refused("puts a field", **{"OFFSET(prb_desc_ring.head_id)": "100000"})
    refused("puts a field", **{"OFFSET(prb_desc_ring.head_id)": "-100000"})
    refused("not mapped", **{"SYMBOL(prb)": "ffffc90000000000"})
    refused("records? of|left out|ring is 2", **{"OFFSET(prb_desc_ring.count_bits)": "24"})
    for machine, name in ((22, "s390x"), (3, "i386"), (9999, "machine 9999")):
        data = bytearray(elf_core(crashed))
        struct.pack_into("<H", data, 18, machine)
        image = open_image(reader(bytes(data)), len(data))
        assert image.arch == name
        with pytest.raises(BadInput, match=f"{name} are not translated"):
            kernel_log(image)


def test_an_old_kernel_that_does_not_tell_its_phys_base() -> None:
    """Before 4.10 NUMBER(phys_base) is missing: the program headers or the kdump header say it, or nothing does."""
    writer = LocklessWriter(4, 8)
    writer.log(Message(b"text", 1, 2))
    crashed = crash(writer.structures())
    base = int(crashed.info.pop("NUMBER(phys_base)"))
    for data in (elf_core(crashed), kdump_compressed(crashed, phys_base=base)):
        assert list(kernel_log(open_image(reader(data), len(data)))) == [Record(b"text", 1, 2)]
    data = elf_core(crashed, twice=False)
    with pytest.raises(BadInput, match="phys_base"):
        kernel_log(open_image(reader(data), len(data)))


def test_program_headers_are_believed_where_the_tables_are_missing() -> None:
    """The tables of an aarch64 kernel were left out, and its program headers know the addresses."""
    writer = LocklessWriter(4, 8)
    writer.log(Message(b"text", 1, 2))
    crashed = crash(writer.structures(), "aarch64")
    root = int(crashed.info["SYMBOL(swapper_pg_dir)"], 16) - int(crashed.info["NUMBER(kimage_voffset)"], 16)
    del crashed.pages[root // 4096]
    crashed.loads = [
        (virtual & -4096, crashed.physical(name) & -4096, 4096) for name, virtual in crashed.placed.items()
    ]
    assert read_log(crashed)[0] == [Record(b"text", 1, 2)]
    data = elf_core(crashed, twice=False)
    with pytest.raises(BadInput, match="not in the dump"):
        list(kernel_log(open_image(reader(data), len(data))))


def broken(change: str) -> tuple[Crashed, list[Message]]:
    """A machine whose ring was hit in one place, and the messages that can still be told."""
    writer = LocklessWriter(5, 12)
    logged = [Message(b"message %d" % i, i * 10**9, i) for i in range(20)]
    for message in logged:
        writer.log(message)
    crashed = crash(writer.structures())
    slot = writer._desc(writer.head_id - 5).id % writer.count  # type: ignore[union-attr]
    if change == "tail runs away":
        crashed.poke("ring", 32, struct.pack("<Q", 12345))
        return crashed, logged
    if change == "head runs away":
        crashed.poke("ring", 24, struct.pack("<Q", writer.head_id + (1 << 40) & (1 << 62) - 1))
        return crashed, []
    if change == "block past the ring":
        crashed.poke("descs", slot * 24 + 8, struct.pack("<QQ", 2**63 + 1024, 2**63 + 1016))
    if change == "one's text is another's":
        begin = writer._desc(writer.head_id - 5).begin % writer.size  # type: ignore[union-attr]
        crashed.poke("text", begin, struct.pack("<Q", 1))
    return crashed, logged[:14] + logged[15:]


@pytest.mark.parametrize(
    "change", ["tail runs away", "head runs away", "block past the ring", "one's text is another's"]
)
def test_a_damaged_ring_gives_what_makes_sense_and_says_so(change: str) -> None:
    """Ids that run away, blocks that cannot be: the other records are read once, with a warning."""
    crashed, expected = broken(change)
    records, told = read_log(crashed)
    assert records == as_records(expected)
    assert told


def test_a_descriptor_that_is_being_taken_is_no_damage() -> None:
    """head_id is moved before the descriptor is: what stands there is of the round before."""
    writer = LocklessWriter(4, 12)
    for i in range(40):
        writer.log(Message(b"message %d" % i, i))
    crashed = crash(writer.structures())
    crashed.poke("ring", 24, struct.pack("<Q", writer.head_id + 1))
    crashed.poke("ring", 32, struct.pack("<Q", writer.tail_id + 1))
    assert read_log(crashed) == (as_records(writer.survivors()[1:]), [])


def test_a_block_that_fits_exactly_does_not_wrap() -> None:
    """Since Linux 6.18 a block may end where the ring ends; before, it went to the ring's start."""
    for exact_fit in (True, False):
        writer = LocklessWriter(5, 8, exact_fit=exact_fit)
        for i in range(25):
            writer.log(Message(b"%02d" % i + b"x" * 22, i, i))
        ends = [d.next % 256 for d in writer.descs.values() if d.state == 2]
        assert (0 in ends) == exact_fit
        assert read_log(crash(writer.structures())) == (as_records(writer.survivors()), [])


def test_a_text_is_no_longer_than_its_block() -> None:
    """text_len says how long the message was; what found no room was cut off."""
    writer = LocklessWriter(5, 12)
    for i in range(3):
        writer.log(Message(b"message%d" % i, i, i))
    crashed = crash(writer.structures())
    slot = (writer.head_id - 1) % writer.count
    crashed.poke("infos", slot * 88 + 16, struct.pack("<H", 60000))
    assert read_log(crashed) == (as_records(writer.survivors()), [])


def test_pages_of_the_log_that_are_not_in_the_dump_are_told() -> None:
    """A text ring of several pages, one of which was left out: its records are missing, and that is said."""
    writer = LocklessWriter(8, 14)
    for i in range(200):
        writer.log(Message(b"%d " % i + b"x" * 80, i))
    crashed = crash(writer.structures())
    lost = crashed.physical("text", 5000) // 4096
    data = kdump_compressed(crashed, without=[lost])
    told: list[str] = []
    records = list(kernel_log(open_image(reader(data), len(data)), told.append))
    everything = as_records(writer.survivors())
    assert 50 < len(records) < len(everything)
    assert [r for r in everything if r in records] == records
    assert len(told) == 2
    assert "not in the dump" in told[0]


def test_a_character_buffer_with_a_hole() -> None:
    """Characters around a page that was left out are told, and that some are not."""
    writer = CharacterWriter(16384)
    writer.log(b"".join(b"%7d\n" % i for i in range(4096)))
    crashed = crash(writer.structures())
    data = kdump_compressed(crashed, without=[crashed.physical("buffer", 8192) // 4096])
    told: list[str] = []
    text = b"".join(record.text for record in kernel_log(open_image(reader(data), len(data)), told.append))
    assert 8192 <= len(text) < 16384
    assert (text[:8], text[-8:]) == (b"   2048\n", b"   4095\n")
    assert len(told) == 1


def test_a_damaged_record_buffer_ends_with_what_could_be_read() -> None:
    """Lengths of nothing, lengths past the end, an end that is never met."""
    for at, value, readable in ((8, 0, 3), (8, 0xFFFF, 3), (8, 4, 3), (8, 17, 3), (10, 0xFFFF, 3), (None, 0, 10)):
        writer = RecordWriter(1024)
        logged = [Message(b"message %d" % i, i) for i in range(10)]
        for message in logged:
            writer.log(message)
        crashed = crash(writer.structures())
        if at is not None:
            crashed.poke("buffer", writer.kept[3][0] + at, struct.pack("<H", value))
        else:
            crashed.poke("log_next_idx", 0, struct.pack("<I", 1023))
        records, told = read_log(crashed)
        assert records[:readable] == as_records(logged[:readable], caller=False)
        assert len(told) == 1
        assert len(records) == readable


def test_errors_of_the_reader_pass_through() -> None:
    """Forged bytes under the log end it: they are no damage to be read around."""
    writer = LocklessWriter(5, 12)
    for i in range(20):
        writer.log(Message(b"message %d" % i))
    crashed = crash(writer.structures())
    data = elf_core(crashed)
    text = data.index(b"message 3")
    armed = False

    def read(offset: int, length: int) -> bytes:
        if armed and offset <= text < offset + length:
            raise Forged("region 7 is not what was signed")
        return data[offset : offset + length]

    image = open_image(read, len(data))
    armed = True
    with pytest.raises(Forged):
        list(kernel_log(image))


def hostile_images() -> Iterator[tuple[int, bytes]]:
    for seed in range(150):
        rng = random.Random(seed)
        writer: Any = rng.choice((LocklessWriter(4, 9), RecordWriter(512), CharacterWriter(256)))
        for message in messages(rng, 60, 100):
            writer.log(message.text if isinstance(writer, CharacterWriter) else message)
        crashed = crash(writer.structures(), rng.choice(("x86_64", "aarch64", "ppc64")), seed=seed)
        image = rng.choice((elf_core, kdump_compressed))(crashed)
        data = bytearray(image)
        for _ in range(rng.choice((1, 5, 50))):
            length = rng.choice((1, 2, 4, 8))
            near = rng.choice((0, len(data) - 1, rng.randrange(len(data))))
            at = max(0, min(len(data) - length, near + rng.randint(-600, 600)))
            data[at : at + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
        yield seed, bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))])


def test_hostile_images_give_a_log_or_a_refusal() -> None:
    """Bytes flipped in headers, tables and rings, and cuts: no other exception, and bounded output."""
    outcomes = {"log": 0, "refused": 0}
    for seed, data in hostile_images():
        try:
            records = list(kernel_log(open_image(reader(data), len(data)), lambda _: None))
            assert sum(len(format_record(r)) for r in records) < 1 << 20, seed
            outcomes["log"] += 1
        except BadInput:
            outcomes["refused"] += 1
    assert outcomes["log"] > 20
    assert outcomes["refused"] > 5


def test_the_largest_rings_that_a_dump_may_claim_cost_no_memory() -> None:
    """Rings of 2^26 records and 2^31 bytes in a dump of a few pages: ended early, within fixed memory."""
    writer = LocklessWriter(4, 8)
    writer.log(Message(b"text"))
    crashed = crash(writer.structures())
    crashed.poke("ring", 0, struct.pack("<I", 26))
    crashed.poke("ring", 56, struct.pack("<I", 31))
    crashed.poke("ring", 32, struct.pack("<Q", writer.head_id - 200_000 & (1 << 62) - 1))
    done = limited(
        "import sys\n"
        "from dumpvault.formats.image import open_image\n"
        "from dumpvault.formats.printk import kernel_log\n"
        "data = sys.stdin.buffer.read()\n"
        "told = []\n"
        "image = open_image(lambda o, n: data[o:o + n], len(data))\n"
        "print(len(list(kernel_log(image, told.append))), len(told), told[-1])\n",
        cpu=60,
        stdin=elf_core(crashed),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) <= 1
    assert int(done.stdout.split()[1]) <= 3
    assert b"4096 records in a row" in done.stdout
