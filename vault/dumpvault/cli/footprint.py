"""Finds out what a capture loads, by carrying one out: run in an interpreter of its own by ``flows.image``."""

from __future__ import annotations

import codecs
import dis
import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.machinery import SourceFileLoader
from io import StringIO
from types import CodeType, ModuleType

from dumpvault.cli import main

__all__ = ["record"]

#: What opening, keyrings, tokens, passphrases and timestamps need; a crash kernel does none of it.
_NEVER = ("nacl", "keyring", "pkcs11", "rfc3161_client", "dumpvault.cli.footprint")

#: Python finds them by name when they are used; a chroot without /proc, where an image may be built, does not use all.
_CODECS = ("ascii", "latin-1", "unicode_escape", "utf-8")


def record() -> None:
    """Carry out captures as ``sys.argv`` says; print what was loaded, as JSON, on standard output.

    A capture that succeeds does not show what a bad one would import, so every import that stands anywhere in
    dumpvault's own code on this path is carried out too.
    """
    runs: list[list[str]] = json.loads(sys.argv[1])
    out = sys.stdout
    problems = StringIO()
    codes = []
    with redirect_stdout(StringIO()), redirect_stderr(problems):
        for arguments in runs:
            try:
                main(arguments)
            except SystemExit as done:
                codes.append(done.code)
    _import_all("dumpvault.cli.capture")
    for codec in _CODECS:
        codecs.lookup(codec)
    loaded = [module for name, module in sorted(sys.modules.items()) if name != __name__]
    binaries = {path for module in loaded if ".so" in os.path.basename(path := _file(module))}
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        # Also what is loaded by name when it is needed, which no tool that reads the binaries could find.
        binaries |= {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
    json.dump(
        {
            "binaries": sorted(binaries),
            "codes": codes,
            "problems": problems.getvalue(),
            "sources": sorted(path for path in map(_file, loaded) if path.endswith(".py")),
        },
        out,
    )


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or ""


def _import_all(first: str) -> None:
    left, seen = [first], set()
    while left:
        name = left.pop()
        if name in seen or name.startswith(_NEVER):
            continue
        seen.add(name)
        with suppress(ImportError):  # a part for other Pythons
            module = importlib.import_module(name)
            if name.startswith("dumpvault.") and (code := _code(module)):
                left += _imports(code)


def _code(module: ModuleType) -> CodeType | None:
    loader = getattr(module, "__loader__", None)
    return loader.get_code(module.__name__) if isinstance(loader, SourceFileLoader) else None


def _imports(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _imports(constant)
