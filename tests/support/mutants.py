"""Test doubles with the order of durability wrong in one place, for the proof that the proof can fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

from dumpvault.formats.commit import Body, Regions
from dumpvault.stages.chain import Chain
from dumpvault.stages.journal import Journal
from dumpvault.stages.release.phyp import PhypRelease
from dumpvault.stages.store.local import LocalStore
from dumpvault.stages.store.local_upload import LocalUpload, sync_directory

__all__ = ["STEPS", "late", "store_mutants"]

#: Section 5's steps in their order. A commit that tells outcomes and authorises releases is both of these steps.
STEPS = ("keybag", "bodies", "keys", "commit", "note", "release", "outcome", "manifest")


class _Late:
    """Holds every step ``first`` back until a step ``second`` was taken, telling its caller that it was done."""

    def __init__(self, first: str, second: str) -> None:
        self._first, self._second = first, second
        self._held: list[Callable[[], Any]] = []
        self._uploads: set[int] = set()
        self._roles: set[str] = set()
        self._real = {
            "append": Chain.append, "put": Chain._put, "tip": Journal.tip, "state": Journal.state,
            "perform": PhypRelease.perform, "finish": LocalUpload.finish, "abort": LocalUpload.abort,
        }  # fmt: skip

    def take(self, roles: set[str], action: Callable[[], Any]) -> Any:
        if self._first in roles:
            self._held.append(action)
            return "released"
        result = action()
        if self._second in roles:
            self.catch_up()
        return result

    def catch_up(self) -> None:
        held, self._held = self._held, []
        for action in held:
            action()

    def patches(self) -> Iterator[Any]:
        late, real = self, self._real

        def append(chain: Chain, body: Body, time: str) -> None:
            late._roles = set()
            if isinstance(body, Regions):
                late._roles |= {"commit"} if body.regions or body.releases else set()
                late._roles |= {"outcome"} if body.outcomes else set()
            real["append"](chain, body, time)

        def put(chain: Chain, name: str, data: bytes) -> None:
            kind = name.partition("/")[0]
            roles = {"keybag": {"keybag"}, "keys": {"keys"}, "commits": late._roles, "manifest.dsse.json": {"manifest"}}
            late.take(roles.get(kind, set()), lambda: real["put"](chain, name, data))

        def finish(upload: LocalUpload) -> None:
            def action() -> None:
                late._uploads.discard(id(upload))
                real["finish"](upload)

            body = upload._final.endswith(".sealed")
            if body and late._first == "bodies":
                late._uploads.add(id(upload))
            late.take({"bodies"} if body else set(), action)

        def abort(upload: LocalUpload) -> None:
            if id(upload) not in late._uploads:
                real["abort"](upload)

        def state(journal: Journal, commit: int, release: int, state: str) -> None:
            roles = {"note"} if state == "begun" else set()
            late.take(roles, lambda: real["state"](journal, commit, release, state))

        yield mock.patch.object(Chain, "append", append)
        yield mock.patch.object(Chain, "_put", put)
        yield mock.patch.object(LocalUpload, "finish", finish)
        yield mock.patch.object(LocalUpload, "abort", abort)
        yield mock.patch.object(Journal, "tip", lambda j, *a: late.take({"note"}, lambda: real["tip"](j, *a)))
        yield mock.patch.object(Journal, "state", state)
        yield mock.patch.object(
            PhypRelease, "perform", lambda r, one: late.take({"release"}, lambda: real["perform"](r, one))
        )


@contextmanager
def late(first: str, second: str) -> Iterator[None]:
    """Within: step ``first`` is taken right after the next step ``second``, though it ought to come before it."""
    double = _Late(first, second)
    with ExitStack() as stack:
        for patch in double.patches():
            stack.enter_context(patch)
        yield


def store_mutants() -> dict[str, Callable[[], Any]]:
    """By what they do wrong: local stores whose steps are swapped or left out."""
    real_sync = sync_directory
    waiting: list[LocalUpload] = []

    def named_first(upload: LocalUpload) -> None:
        upload._publish()
        _os().fsync(upload._fd)
        _os().fsync(upload._directory)
        upload.abort()

    def named_last(upload: LocalUpload) -> None:
        _os().fsync(upload._fd)
        _os().fsync(upload._directory)
        upload._publish()
        upload.abort()

    def reported_early(upload: LocalUpload) -> None:
        """The directory is synced when the next object is finished."""
        for other in waiting:
            _os().fsync(other._directory)
        waiting[:] = [upload]
        _os().fsync(upload._fd)
        upload._publish()
        upload.abort()

    def unsynced(upload: LocalUpload) -> None:
        upload._publish()
        _os().fsync(upload._directory)
        upload.abort()

    def errors_ignored(upload: LocalUpload) -> None:
        for step in (lambda: _os().fsync(upload._fd), upload._publish, lambda: _os().fsync(upload._directory)):
            with suppress(OSError):
                step()
        upload.abort()

    def only_itself(store: LocalStore, directory: str) -> None:
        _os().makedirs(directory, exist_ok=True)
        real_sync(directory)

    def up_to_the_store(store: LocalStore, directory: str) -> None:
        _os().makedirs(directory, exist_ok=True)
        while len(directory) >= len(store.root):
            real_sync(directory)
            directory = os.path.dirname(directory)

    finishes = {
        "named before its bytes are synced": named_first,
        "directory synced before the name is in it": named_last,
        "reported before the directory is synced": reported_early,
        "bytes never synced": unsynced,
        "errors of syncing ignored": errors_ignored,
    }
    makes = {"ancestors never synced": only_itself, "ancestors above the store never synced": up_to_the_store}
    found: dict[str, Callable[[], Any]] = {}
    for name, finish in finishes.items():
        found[name] = lambda finish=finish: mock.patch.object(LocalUpload, "finish", finish)
    for name, make in makes.items():
        found[name] = lambda make=make: mock.patch.object(LocalStore, "_make_directory", make)
    return found


def _os() -> Any:
    """The ``os`` that the store sees at this moment."""
    from dumpvault.stages.store import local_upload

    return local_upload.os
