"""What several test files need: a sink that remembers, a reader over bytes, and vectors of the Wycheproof form."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dumpvault.formats.sshkey import SigningKey

VAULT = "0123456789abcdef0123456789abcdef"
KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(range(1, 33)))


def reader(data: bytes) -> Callable[[int, int], bytes]:
    """``get(offset, length)`` over bytes: less at the end, as a store gives it."""
    return lambda offset, length: bytes(data[offset : offset + length])


class Collected:
    """A sink over memory; ``calls`` are its calls as (what, offset, length), in order."""

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self.data = bytearray()
        self.calls: list[tuple[str, int, int]] = []

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._put("write", offset, bytes(data))

    def zeros(self, offset: int, length: int) -> None:
        self._put("zeros", offset, bytes(length))

    def _put(self, what: str, offset: int, data: bytes) -> None:
        assert offset == self.base + len(self.data), "bytes are handed on in order, without gaps"
        self.data += data
        self.calls.append((what, offset, len(data)))


def wycheproof(shared: Path, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(group, test) pairs of one vector file; skips loudly where the file is missing."""
    path = shared / "vectors" / name
    if not path.is_file():
        pytest.skip(f"NOT TESTED: {path} is missing")
    for group in json.loads(path.read_text())["testGroups"]:
        for test in group["tests"]:
            yield group, test


def limited(
    program: str, *, cpu: int = 20, memory: int = 400 << 20, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run Python under hard limits of CPU seconds and address space, as a hostile object may not pass them."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    path = f"import sys; sys.path[:0] = {sys.path!r}\n"
    return subprocess.run(
        [sys.executable, "-c", path + program], input=stdin, preexec_fn=limit, capture_output=True, check=False
    )


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field of every object in ``value``, array entries included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from paths(inner, (*at, key))


def parent_of(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def get(value: Any, path: tuple[Any, ...]) -> Any:
    return parent_of(value, path)[path[-1]]


def wrong_values(value: Any, *, nullable: bool = False) -> Iterator[Any]:
    """Values of every other JSON type than that of ``value``; for a nullable field neither null nor a string."""
    for candidate in (None, True, 7, "~", [], {}, [7], {"a": 7}):
        same = type(candidate) is type(value)
        if not same and not (nullable and (candidate is None or isinstance(candidate, str))):
            yield candidate


def injected(inject: str, folder: Path, program: str, *, trace: str = "") -> bytes:
    """Run Python with strace making system calls fail as ``inject`` says (or none if it is empty); its standard output.

    The trace of the injected call and of those that ``trace`` names is left in ``folder``/trace.
    """
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("NOT TESTED: no strace here")
    names = ",".join(filter(None, (trace, inject.partition(":")[0])))
    options = ["-f", "--seccomp-bpf", "-y", "-s", "300", "-o", str(folder / "trace"), "-e", f"trace={names}"]
    if inject:
        options += ["-e", f"inject={inject}"]
    path = f"import sys; sys.path[:0] = {sys.path!r}\n"
    done = subprocess.run([strace, *options, sys.executable, "-c", path + program], capture_output=True, check=False)
    if b"PTRACE" in done.stderr:
        pytest.skip("NOT TESTED: strace may not trace here")
    assert done.returncode == 0, done.stderr
    return done.stdout
