"""A drgn program whose memory is read from a view: no file, no mount, no plaintext on any disk.

The steps are those of drgn's own ``Program.set_linux_kernel_custom``: physical segments, then VMCOREINFO, then the
virtual segments, which would be refused earlier.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dumpvault.errors import BadInput, VaultError
from dumpvault.formats.image import Absent, Image

if TYPE_CHECKING:
    import drgn

__all__ = ["check_drgn", "program", "run"]

_ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "AARCH64", "ppc64le": "PPC64"}


def program(image: Image, symbols: Sequence[str] = (), *, find_symbols: bool = True) -> drgn.Program:
    """A program over ``image``; ``symbols`` are files with debug symbols, ``find_symbols`` looks where drgn does, too.

    Raises ``BadInput`` for a dump that drgn cannot be given, ``VaultError`` where drgn or symbols are missing.
    """
    drgn = _drgn()
    name = _ARCHITECTURES.get(image.arch)
    if name is None:
        raise BadInput(
            f"the dump is of {image.arch}; drgn is given {', '.join(_ARCHITECTURES)} only",
            "Mount the vault, or open it, and use crash.",
        )
    if not image.vmcoreinfo:
        raise BadInput("the dump has no VMCOREINFO, which drgn needs", "Mount the vault, or open it, and use crash.")
    try:
        prog = drgn.Program(drgn.Platform(drgn.Architecture[name]), vmcoreinfo=image.vmcoreinfo)
        for segment in image.segments:
            prog.add_memory_segment(segment.physical, segment.length, _reader(drgn, image, segment.physical), True)
        prog.set_linux_kernel_custom(image.vmcoreinfo, False)
        for segment in image.segments:
            if segment.virtual is not None:
                prog.add_memory_segment(segment.virtual, segment.length, _reader(drgn, image, segment.physical))
    except (ValueError, LookupError, drgn.BadDataError) as error:
        raise BadInput(f"drgn does not take the dump's VMCOREINFO: {error}", "Open it and use crash.") from None
    if symbols or find_symbols:
        _load_symbols(drgn, prog, symbols, find_symbols, image.release)
    return prog


def _load_symbols(
    drgn: ModuleType, prog: drgn.Program, symbols: Sequence[str], find_symbols: bool, release: str | None
) -> None:
    for path in symbols:
        if not os.path.isfile(path) or not os.access(path, os.R_OK):  # drgn would go on without it
            raise BadInput(f"{path}: no file that can be read", "Name another file with --symbols.")
    why = "none of the files named is its vmlinux"
    try:
        prog.load_debug_info(symbols, default=find_symbols)
    except drgn.MissingDebugInfoError as error:
        why = str(error)
        if not _wants_vmlinux(prog):
            print(f"dumpvault: note: {error}", file=sys.stderr)  # of some modules only
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}", "Name another file with --symbols.") from None
    if _wants_vmlinux(prog):
        raise VaultError(
            f"no debug symbols of kernel {release}: {why}",
            "Name its vmlinux with --symbols FILE (Debian: linux-image-…-dbg; Fedora: kernel-debuginfo).",
        )


def _wants_vmlinux(prog: drgn.Program) -> bool:
    try:
        return bool(prog.main_module().wants_debug_file())
    except LookupError:  # nothing that was named is a kernel's
        return True


def _reader(drgn: ModuleType, image: Image, base: int) -> Callable[[int, int, int, bool], bytes]:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:  # noqa: ARG001
        try:
            return image.physical(base + offset, count)
        except Absent as error:
            raise drgn.FaultError(error.message, address) from None

    return read


def run(prog: drgn.Program, script: str | None, arguments: Sequence[str], code: str | None) -> None:
    """Run a script, or ``code``, or else a session on the terminal or what comes from a pipe, as the ``drgn`` command does.

    What the script raises is its own: it passes through.
    """
    drgn = _drgn()
    from drgn.cli import default_globals, run_interactive

    if script is None and code is None:
        if sys.stdin.isatty():
            run_interactive(prog)
            return
        code = sys.stdin.read()
    drgn.set_default_prog(prog)
    if script is not None:
        sys.argv = [script, *arguments]
        sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
        runpy.run_path(script, init_globals={"prog": prog}, run_name="__main__")
    else:
        sys.argv = ["-e", *arguments]
        sys.path.insert(0, "")
        names: dict[str, Any] = default_globals(prog)
        exec(str(code), names)  # noqa: S102


def check_drgn() -> None:
    """Raise ``VaultError`` if drgn is not here: before a vault is opened, since an approval opens it only once."""
    _drgn()


def _drgn() -> ModuleType:
    try:
        import drgn
    except ImportError:
        raise VaultError("this needs drgn", "Install it: pip install 'dumpvault[drgn]'.") from None
    return drgn
