"""The store in a directory: the contract of every store, its order of durability, and what the directory may hold."""

from __future__ import annotations

import mmap
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dumpvault.errors import StoreFailed, Usage
from dumpvault.model import Store
from dumpvault.stages.store import open_store
from dumpvault.stages.store.contract import ObjectExists, ObjectMissing
from dumpvault.stages.store.local import LocalStore
from kit import injected
from store_contract import NAME, Again, StoreContract

CALLS = "openat,fsync,fdatasync,link,linkat,unlink,unlinkat,rename,renameat,renameat2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "site" / "store"


@pytest.fixture
def store(root: Path) -> Store:
    return open_store(str(root), create=True)


@pytest.fixture
def again(root: Path) -> Again:
    return lambda: open_store(f"file://{root}")


class TestLocalStore(StoreContract):
    """The contract."""


def test_stores_are_named_by_path_or_file_url(tmp_path: Path) -> None:
    """A path and its file:// URL are the same store; other schemes and missing or other roots are refused."""
    open_store(str(tmp_path / "s"), create=True).put("a", b"x")
    assert open_store(f"file://{tmp_path}/s").get("a") == b"x"
    with pytest.raises(Usage, match="'s3' are not known"):
        open_store("s3://bucket")
    (tmp_path / "file").touch()
    for root in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(StoreFailed, match="opening the store failed"):
            open_store(str(root))


def everything(root: Path) -> list[str]:
    return sorted(str(Path(folder, name).relative_to(root)) for folder, _, names in os.walk(root) for name in names)


def test_unfinished_files_are_no_objects(store: Store, root: Path) -> None:
    """While an object is written its file has a name that no object can have, beside the final one, for its owner only."""
    upload = store.create(NAME)
    upload.write(b"x")
    (unfinished,) = everything(root)
    assert re.fullmatch(r"vaults/v/regions/1/\.0\.sealed\.[0-9a-f]{16}\.tmp", unfinished)
    with pytest.raises(ValueError, match="no object name"):
        store.get(unfinished)
    upload.finish()
    assert everything(root) == [NAME]
    assert (root / NAME).stat().st_mode & 0o777 == 0o440
    assert (root / NAME).stat().st_nlink == 1


def test_files_left_by_a_crash_are_not_seen(store: Store, root: Path) -> None:
    """A temporary file of a dead process is not listed and hinders no later write."""
    store.put(NAME, b"x")
    (root / "vaults/v/regions/1/.1.sealed.0011223344556677.tmp").write_bytes(b"half")
    assert list(store.children("vaults/v/regions/1")) == ["0.sealed"]
    assert list(store.list("vaults")) == [NAME]
    store.put("vaults/v/regions/1/1.sealed", b"y")


# One line of strace -f -y: call, arguments, result; descriptors carry their paths.
CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")


def steps(folder: Path, root: Path) -> list[tuple[str, str]]:
    """(call, what it works on) of every call on the store's files, in order; the temporary file is called TMP."""
    found = []
    for line in (folder / "trace").read_text().splitlines():
        match = CALL.match(line)
        if not match:
            continue
        call, arguments, _ = match.groups()
        text = re.sub(r"\.[\w.]*\.[0-9a-f]{16}\.tmp", "TMP", arguments)
        if call.endswith("sync"):
            text = re.sub(r"^\d+<(.*?)>.*$", r"\1", text)
        if str(root.parent) in text or "TMP" in text or call.endswith("sync"):
            found.append((call, text.replace(f"{root}", "ROOT")))
    return found


def position(found: list[tuple[str, str]], call: str, what: str, *, after: int = -1) -> int:
    for i, (name, text) in enumerate(found):
        if i > after and name.startswith(call) and what in text:
            return i
    raise AssertionError(f"no {call} of {what} after step {after} in {found}")


def to_the_mount_point(root: Path) -> list[Path]:
    """``root`` and what is above it on the same file system."""
    found = [root]
    while found[-1] != found[-1].parent and found[-1].parent.stat().st_dev == root.stat().st_dev:
        found.append(found[-1].parent)
    return found


PUT = "from dumpvault.stages.store.local import LocalStore\nstore = LocalStore({root!r}, create=True)\n"


def test_the_order_of_durability(tmp_path: Path, root: Path) -> None:
    """The file is synced, then linked to its name, then its directory synced; every directory above was synced before."""
    injected("", tmp_path, PUT.format(root=str(root)) + f"store.put({NAME!r}, b'x' * 5000)", trace=CALLS)
    found = steps(tmp_path, root)
    written = position(found, "fsync", "ROOT/vaults/v/regions/1/TMP")
    linked = position(found, "link", "TMP", after=written)
    position(found, "fsync", "ROOT/vaults/v/regions/1", after=linked)
    assert (tmp_path / "trace").read_text().rstrip().splitlines()[-1].endswith("exited with 0 +++")
    names = [text for call, text in found[:written] if call == "fsync"]
    below = [root / "vaults/v/regions/1", root / "vaults/v/regions", root / "vaults/v", root / "vaults"]
    for directory in [*below, *to_the_mount_point(root)]:
        assert str(directory).replace(str(root), "ROOT") in names
    # Never in place of another: no rename and no truncating open.
    assert not any(call.startswith("rename") or "O_TRUNC" in text for call, text in found)
    assert position(found, "openat", "O_EXCL") < written


def test_existing_directories_are_synced_by_a_new_process(tmp_path: Path, root: Path) -> None:
    """Directories that an earlier run made are synced again up to the mount point before the first object is done."""
    LocalStore(str(root), create=True).put(NAME, b"x")
    program = (
        f"from dumpvault.stages.store.local import LocalStore\nLocalStore({str(root)!r}).put({NAME + '2'!r}, b'y')"
    )
    injected("", tmp_path, program, trace=CALLS)
    found = steps(tmp_path, root)
    names = [text for call, text in found[: position(found, "link", "TMP")] if call == "fsync"]
    below = [root / "vaults/v/regions/1", root / "vaults/v/regions", root / "vaults/v", root / "vaults"]
    for directory in [*below, *to_the_mount_point(root)]:
        assert str(directory).replace(str(root), "ROOT") in names


def test_the_same_bytes_again_are_made_durable(tmp_path: Path, root: Path) -> None:
    """Where the name is taken by the very bytes, that file and its directory are synced before finish returns."""
    LocalStore(str(root), create=True).put(NAME, b"x" * 5000)
    injected("", tmp_path, PUT.format(root=str(root)) + f"store.put({NAME!r}, b'x' * 5000)", trace=CALLS)
    found = steps(tmp_path, root)
    other = position(found, "fsync", f"ROOT/{NAME}", after=position(found, "link", "TMP"))
    position(found, "fsync", "ROOT/vaults/v/regions/1", after=other)


DELETE = "from dumpvault.stages.store.local import LocalStore\nLocalStore({root!r}).delete('v/keybag/1.json')"


def test_deleting_is_durable(tmp_path: Path, root: Path) -> None:
    """The directory is synced after the name is gone."""
    LocalStore(str(root), create=True).put("v/keybag/1.json", b"secret")
    injected("", tmp_path, DELETE.format(root=str(root)), trace=CALLS)
    found = steps(tmp_path, root)
    position(found, "fsync", "ROOT/v/keybag", after=position(found, "unlink", "ROOT/v/keybag/1.json"))


def test_deleting_what_an_earlier_run_deleted_is_durable(tmp_path: Path, root: Path) -> None:
    """An earlier delete may have died before its sync: gone, durably, on return, holds for a name that is gone already."""
    store = LocalStore(str(root), create=True)
    store.put("v/keybag/1.json", b"secret")
    os.unlink(root / "v/keybag/1.json")
    injected("", tmp_path, DELETE.format(root=str(root)), trace=CALLS)
    position(steps(tmp_path, root), "fsync", "ROOT/v/keybag")


FAILING = (
    PUT
    + """
from dumpvault.errors import StoreFailed
try: store.put({name!r}, b"x" * 5000)
except StoreFailed as error: print(type(error).__name__, error)
else: print("done")
"""
)


@pytest.mark.parametrize(("inject", "failed"), [
    ("fdatasync,fsync:error=EIO:when={file}", "making it durable failed: Input/output error"),
    ("linkat:error=EIO", "making it durable failed: Input/output error"),
    ("fdatasync,fsync:error=EIO:when={directory}", "making its name durable failed: Input/output error"),
], ids=["file", "link", "directory"])  # fmt: skip
def test_what_cannot_be_made_durable_fails(tmp_path: Path, root: Path, inject: str, failed: str) -> None:
    """A failed sync or link raises StoreFailed naming the object, leaves no temporary file, and is not tried again."""
    program = FAILING.format(root=str(root), name=NAME)
    injected("", tmp_path, program, trace=CALLS)
    syncs = [text for call, text in steps(tmp_path, root) if call == "fsync"]
    file = next(i for i, text in enumerate(syncs, 1) if text.endswith("TMP"))
    os.unlink(root / NAME)
    printed = injected(inject.format(file=file, directory=file + 1), tmp_path, program, trace=CALLS).decode()
    assert printed == f"StoreFailed {NAME}: {failed}\n"
    assert [name for name in everything(root) if name != NAME] == []
    if "name" not in failed:
        assert everything(root) == []
    tried = [text for call, text in steps(tmp_path, root) if call == "fsync" and "TMP" in text]
    assert len(tried) == 1


def test_without_hard_links_a_rename_that_replaces_nothing_serves(tmp_path: Path, root: Path) -> None:
    """Where linkat is refused with EPERM, renameat2(RENAME_NOREPLACE) gives the name, and still keeps what has it."""
    program = FAILING.format(root=str(root), name=NAME)
    assert injected("linkat:error=EPERM", tmp_path, program, trace=CALLS) == b"done\n"
    found = steps(tmp_path, root)
    renamed = position(found, "renameat2", "RENAME_NOREPLACE", after=position(found, "fsync", "TMP"))
    position(found, "fsync", "ROOT/vaults/v/regions/1", after=renamed)
    assert everything(root) == [NAME]
    assert injected("linkat:error=EPERM", tmp_path, program, trace=CALLS) == b"done\n"
    os.unlink(root / NAME)
    (root / NAME).write_bytes(b"other")
    assert injected("linkat:error=EPERM", tmp_path, program, trace=CALLS).startswith(b"ObjectExists")
    assert everything(root) == [NAME]
    assert (root / NAME).read_bytes() == b"other"


def test_links_are_not_followed(store: Store, root: Path) -> None:
    """A symbolic link in an object's place is no object: not read, not sized, not written through, not replaced."""
    store.put(NAME, b"x")
    (root / "secret").write_bytes(b"secret")
    for target in ("secret", "nothing"):
        link = root / "vaults/v/regions/1/1.sealed"
        link.symlink_to(root / target)
        name = "vaults/v/regions/1/1.sealed"
        assert store.size(name) is None
        with pytest.raises(ObjectMissing, match="not a regular file"):
            store.get(name)
        with pytest.raises(StoreFailed):
            store.put(name, b"secret")
        link.unlink()
    assert (root / "secret").read_bytes() == b"secret"
    assert not (root / "nothing").exists()


class Waited(Exception):
    """A call went on waiting until it was broken off."""


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """A call that blocks for ever is broken off with ``Waited``."""

    def ring(number: int, frame: object) -> None:
        raise Waited

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_fifo_is_no_object(store: Store, root: Path) -> None:
    """A named pipe in an object's place is refused like any other file that is not regular, not waited for."""
    os.mkfifo(root / "a")
    with alarm(1), pytest.raises(ObjectMissing, match="not a regular file"):
        store.get("a")


def test_a_directory_is_no_object(store: Store, root: Path) -> None:
    """A directory in an object's place is missing to readers and taken to writers."""
    (root / "a").mkdir()
    assert store.size("a") is None
    with pytest.raises(ObjectMissing, match="not a regular file"):
        store.get("a")
    with pytest.raises(StoreFailed):
        store.put("a", b"x")
    assert everything(root) == []


def test_foreign_directories_are_listed(store: Store, root: Path) -> None:
    """A directory whose name no object can have does not stop the listing of the others (spec, section 13, step 9)."""
    store.put("v/a", b"x")
    (root / "v/lost+found").mkdir()
    (root / "v/lost+found/b c").write_bytes(b"x")
    assert "v/a" in list(store.list("v"))


def takes_crooked_memory(folder: Path) -> bool:
    """Whether this file system does without O_DIRECT, or takes any memory for it."""
    try:
        fd = os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        return True
    try:
        os.write(fd, memoryview(bytearray(8192 + 3))[3:])
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def test_aligned_and_unaligned_pieces_mix(store: Store, tmp_path: Path) -> None:
    """Page-aligned memory, then whole pages from memory that is not aligned: any piece may follow any other."""
    if takes_crooked_memory(tmp_path):
        pytest.skip("NOT TESTED: this file system takes any memory past its cache")
    aligned = mmap.mmap(-1, 1 << 20)
    aligned[:] = b"a" * (1 << 20)
    crooked = memoryview(bytearray(b"b" * (8192 + 3)))[3:]
    upload = store.create(NAME)
    try:
        upload.write(memoryview(aligned))
        upload.write(crooked)
        upload.finish()
    finally:
        upload.abort()
    assert store.get(NAME) == b"a" * (1 << 20) + b"b" * 8192


def test_the_names_are_taken_by_whoever_links_first(store: Store, root: Path) -> None:
    """A file that appears under the name while the object is written is kept; the upload fails and leaves nothing."""
    upload = store.create(NAME)
    upload.write(b"x" * 100)
    (root / NAME).write_bytes(b"theirs")
    with pytest.raises(ObjectExists):
        upload.finish()
    assert (root / NAME).read_bytes() == b"theirs"
    assert everything(root) == [NAME]


def test_no_descriptor_stays_open(store: Store) -> None:
    """Finished, aborted and failed uploads and all reads give their descriptors back."""
    store.put(NAME, b"x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        store.put(NAME, b"x")
        with pytest.raises(ObjectExists):
            store.put(NAME, b"y")
        store.create(NAME).abort()
        store.get(NAME)
        with pytest.raises(ObjectMissing):
            store.get("vaults")
    assert len(os.listdir("/proc/self/fd")) == before
