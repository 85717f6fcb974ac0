"""One suite for every store: what dumpvault/stages/store/contract.py promises.

A test module of a store imports ``StoreContract``, subclasses it under a name that begins with Test, and gives it a
fixture ``store``: an empty store, with a method or function to open it a second time in fixture ``again``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import pytest

from dumpvault.errors import Incomplete, StoreFailed
from dumpvault.model import Store
from dumpvault.stages.store.contract import ObjectExists, ObjectMissing

NAME = "vaults/v/regions/1/0.sealed"
GOOD_NAMES = ["a", "A-b_c.9", "_x", "0/1/2", "vaults/v/keys/1/1.json"]
BAD_NAMES = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    ".a",
    "a/.b",
    "-a",
    "a/..",
    "..",
    "a b",
    "a\n",
    "a\0",
    "é",
    "a/../b",
    "a\\b",
    "a+b",
]


class Again(Protocol):
    def __call__(self) -> Store: ...


class StoreContract:
    """The sentences of contract.py, each as a test."""

    def test_a_put_object_is_there(self, store: Store) -> None:
        """put: the whole object has its name, size and bytes."""
        store.put(NAME, b"content")
        assert (store.get(NAME), store.size(NAME)) == (b"content", 7)

    @pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, (1 << 20) + 17])
    def test_bytes_come_back(self, store: Store, length: int) -> None:
        """Objects of any length, the empty one included, come back as they were put."""
        data = bytes(range(256)) * (length // 256 + 1)
        store.put(NAME, data[:length])
        assert store.get(NAME) == data[:length]
        assert store.size(NAME) == length

    def test_an_object_is_seen_by_another_opening(self, store: Store, again: Again) -> None:
        """What one opening of a store has put, another one reads."""
        store.put(NAME, b"content")
        assert again().get(NAME) == b"content"

    def test_nothing_is_visible_before_finish(self, store: Store, again: Again) -> None:
        """An object that is being written has no name: not by size, get, children or list."""
        upload = store.create(NAME)
        upload.write(b"x" * 10_000)
        for seen in (store, again()):
            assert seen.size(NAME) is None
            assert list(seen.list("vaults")) == []
            assert list(seen.children("vaults/v/regions/1")) == []
            with pytest.raises(ObjectMissing):
                seen.get(NAME)
        upload.finish()
        assert store.get(NAME) == b"x" * 10_000
        assert list(store.children("vaults/v/regions/1")) == ["0.sealed"]

    def test_pieces_are_appended(self, store: Store) -> None:
        """Pieces of any length and kind are appended in order."""
        pieces = [
            b"a",
            b"",
            memoryview(b"b" * 4096),
            bytearray(b"c" * 5000),
            memoryview(bytearray(3 << 20)),
            b"d" * 8192,
        ]
        upload = store.create(NAME)
        for piece in pieces:
            upload.write(piece)  # type: ignore[arg-type]
        upload.finish()
        assert store.get(NAME) == b"".join(pieces)

    def test_an_aborted_upload_leaves_nothing(self, store: Store) -> None:
        """abort leaves no object, and the name is free; aborting again, or after finish, changes nothing."""
        upload = store.create(NAME)
        upload.write(b"x")
        upload.abort()
        upload.abort()
        assert store.size(NAME) is None
        assert list(store.list("vaults")) == []
        upload = store.create(NAME)
        upload.write(b"y")
        upload.finish()
        upload.abort()
        assert store.get(NAME) == b"y"

    def test_other_bytes_under_a_taken_name_are_refused(self, store: Store) -> None:
        """finish raises ObjectExists if the name has other bytes, shorter, longer or changed; the first stay."""
        store.put(NAME, b"first")
        for other in (b"", b"firs", b"first!", b"First", b"x" * (3 << 20)):
            with pytest.raises(ObjectExists, match=NAME):
                store.put(NAME, other)
        assert store.get(NAME) == b"first"
        assert list(store.list("vaults")) == [NAME]
        assert issubclass(ObjectExists, StoreFailed)

    @pytest.mark.parametrize("length", [0, 5, (2 << 20) + 1])
    def test_the_same_bytes_under_a_taken_name_are_fine(self, store: Store, length: int) -> None:
        """finish returns as if it had written, if the name has the very bytes."""
        for _ in range(3):
            store.put(NAME, b"s" * length)
        assert store.size(NAME) == length
        assert list(store.list("vaults")) == [NAME]

    def test_get_reads_ranges(self, store: Store) -> None:
        """get gives a slice, and fewer bytes only at the end."""
        store.put(NAME, bytes(range(100)))
        data = bytes(range(100))
        for offset, length in ((0, 10), (90, 10), (90, 11), (99, 1000), (100, 1), (1000, 1), (0, 0), (50, None)):
            end = None if length is None else offset + length
            assert store.get(NAME, offset, length) == data[offset:end]

    def test_missing_objects(self, store: Store) -> None:
        """size of nothing is None, get raises ObjectMissing naming the object, which is Incomplete, not forged."""
        store.put(NAME, b"x")
        for name in ("vaults/v/other", "nowhere/x", "vaults/v/regions", f"{NAME}/below"):
            assert store.size(name) is None
            with pytest.raises(ObjectMissing, match=name) as caught:
                store.get(name)
            assert isinstance(caught.value, Incomplete)

    def test_children_and_list(self, store: Store) -> None:
        """children gives the first components below a prefix, each once; list gives all full names below it."""
        names = {"v/a", "v/b/1", "v/b/2", "v/b/c/3", "w/a"}
        for name in names:
            store.put(name, b"")
        assert sorted(store.children("v")) == ["a", "b"]
        assert sorted(store.children("v/b")) == ["1", "2", "c"]
        assert sorted(store.list("v")) == sorted(names - {"w/a"})
        assert sorted(store.list("v/b")) == ["v/b/1", "v/b/2", "v/b/c/3"]
        for nothing in ("v/a", "x", "v/b/c/3/d"):
            assert list(store.children(nothing)) == []
            assert list(store.list(nothing)) == []

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_bad_names_are_refused(self, store: Store, name: str) -> None:
        """Names that are no components of the contract's letters are refused with ValueError everywhere."""
        calls: list[Callable[[], object]] = [
            lambda: store.create(name), lambda: store.put(name, b""), lambda: store.get(name), lambda: store.size(name),
            lambda: list(store.children(name)), lambda: list(store.list(name)), lambda: store.delete(name),
            lambda: store.delete(f"v/keybag/{name}"),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(ValueError, match="is no object name"):
                call()

    @pytest.mark.parametrize("name", GOOD_NAMES)
    def test_good_names_are_taken(self, store: Store, name: str) -> None:
        """Every name of the contract's letters can be put and found."""
        store.put(name, b"x")
        assert store.size(name) == 1

    @pytest.mark.parametrize("name", ["v/keybag/1.json", "v/keys/1/2.json", "keybag/1.json", "keys/12/3.json"])
    def test_key_objects_can_be_deleted(self, store: Store, again: Again, name: str) -> None:
        """delete takes key objects away, is no error if there is none, and the name is free again."""
        store.delete(name)
        store.put(name, b"secret")
        store.delete(name)
        store.delete(name)
        assert (store.size(name), again().size(name)) == (None, None)
        store.put(name, b"other")
        assert store.get(name) == b"other"

    @pytest.mark.parametrize("name", ["v/commits/1.dsse.json", "v/regions/1/0.sealed", "v/keybag", "v/keys/1", "v/keys/x/1",
                                      "v/keybag/a/b", "v/keys/1/2/3", "v/xkeybag/1", "v/manifest.json"])  # fmt: skip
    def test_nothing_else_can_be_deleted(self, store: Store, name: str) -> None:
        """delete refuses every other name with ValueError, whether there is such an object or not."""
        with pytest.raises(ValueError, match="nothing else is ever deleted"):
            store.delete(name)
        store.put(name, b"x")
        with pytest.raises(ValueError, match="nothing else is ever deleted"):
            store.delete(name)
        assert store.get(name) == b"x"

    def test_one_of_many_writers_wins(self, store: Store) -> None:
        """Of threads that put other bytes under one name, exactly one succeeds, and its bytes are there whole."""
        won: list[int] = []
        lost: list[int] = []
        gate = threading.Barrier(8)

        def put(i: int) -> None:
            upload = store.create(NAME)
            upload.write(bytes([i]) * 300_000)
            gate.wait()
            try:
                upload.finish()
            except ObjectExists:
                lost.append(i)
            else:
                won.append(i)

        in_threads(put, 8)
        assert (len(won), len(lost)) == (1, 7)
        assert store.get(NAME) == bytes([won[0]]) * 300_000
        assert list(store.list("vaults")) == [NAME]

    def test_many_writers_of_the_same_bytes_all_win(self, store: Store) -> None:
        """Threads that put the same bytes under one name, in directories that do not exist yet, all succeed."""
        done: list[int] = []

        def put(i: int) -> None:
            store.put(NAME, b"same" * 50_000)
            store.put(f"vaults/w/{i % 3}/{i}", bytes([i]))
            done.append(i)

        in_threads(put, 8)
        assert len(done) == 8
        assert store.get(NAME) == b"same" * 50_000
        assert [store.get(f"vaults/w/{i % 3}/{i}") for i in range(8)] == [bytes([i]) for i in range(8)]


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
