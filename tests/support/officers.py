"""A site with an officer, and a sealed vault of many regions and commits for the officer to change."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from dumpvault.errors import StoreFailed
from dumpvault.stages.store.local import LocalStore
from support.command import Home, Ran, make_home, seal
from support.vmcore import write_core

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    home: Home
    vault: Path
    source: bytes

    def call(self, command: str, *arguments: object) -> Ran:
        return self.home.call(command, self.vault.name, *arguments)

    def verify(self) -> Any:
        return self.call("verify", "--json").json

    def opened(self, *more: object) -> tuple[int, bytes]:
        """The exit code of ``open``, and what it wrote."""
        out = self.home.path / "opened"
        ran = self.call("open", "-o", out, "--force", *more)
        data = out.read_bytes() if out.exists() else b""
        out.unlink(missing_ok=True)
        return ran.code, data

    def objects(self, *folders: str) -> set[str]:
        """The names of objects in these folders of the vault; of all, if none is named."""
        found = (p.relative_to(self.vault).as_posix() for p in self.vault.rglob("*") if p.is_file())
        return {name for name in found if not folders or name.split("/")[0] in folders}

    def tree(self) -> dict[str, str]:
        """Every object's digest."""
        return {name: hashlib.sha256((self.vault / name).read_bytes()).hexdigest() for name in self.objects()}

    def copied(self, to: Path) -> Case:
        home = Home(Path(shutil.copytree(self.home.path, to)))
        return Case(home, home.vaults / self.vault.name, self.source)


def make_case(path: Path, core: bytes | None = None) -> Case:
    """Regions of ``core``, if it is given, in some commits; recipient ``analyst``, signers ``collector`` and ``officer``."""
    home = make_home(path / "site")
    assert home.call("keys", "new", "signer", "officer", "--role", "officer", "--unprotected").code == 0
    policy = (ROOT / "policies" / "baseline.toml").read_text()
    (path / "policy.toml").write_text(policy.replace("mib = 64\nseconds", "mib = 1\nseconds"))
    source = path / "vmcore"
    if core is None:
        write_core(source, 700)
    else:
        source.write_bytes(core)
    vault = seal(home, source, "--region-size", "512K", "--policy", path / "policy.toml", "--jobs", "1")
    return Case(home, home.vaults / vault, source.read_bytes())


class Stopped(BaseException):
    """The process died here."""


@contextmanager
def calls(
    before: Callable[[int, str], None], after: Callable[[int, str], None] = lambda n, what: None
) -> Iterator[None]:
    """Within: ``before`` and ``after`` are told of each call that changes a vault, with its number and what it does.

    Of calls that change the store's ledger they are not told: a vault is what it is whatever became of those.
    """
    count = iter(range(1 << 20))
    real_put, real_delete = LocalStore.put, LocalStore.delete

    def put(store: LocalStore, name: str, data: bytes) -> None:
        if name.startswith("ledger/"):
            real_put(store, name, data)
            return
        n, what = next(count), f"put {name.split('/', 2)[2]}"
        before(n, what)
        real_put(store, name, data)
        after(n, what)

    def delete(store: LocalStore, name: str) -> None:
        n, what = next(count), f"delete {name.split('/', 2)[2]}"
        before(n, what)
        real_delete(store, name)
        after(n, what)

    with mock.patch.object(LocalStore, "put", put), mock.patch.object(LocalStore, "delete", delete):
        yield


@contextmanager
def fault_at(at: int, fault: str) -> Iterator[None]:
    """Within: the store's call of that number is where the process is "killed before" or "killed after" it, or it "failed"."""

    def stop(n: int, what: str) -> None:
        if n == at:
            raise StoreFailed(f"{what}: no", "no") if fault == "failed" else Stopped

    nothing = lambda n, what: None  # noqa: E731
    with calls(*((nothing, stop) if fault == "killed after" else (stop,))):
        yield


def certificate_path(home: Home) -> Path:
    return home.path / f"certificate-{os.urandom(6).hex()}.json"
