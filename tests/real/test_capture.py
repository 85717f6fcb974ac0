"""A real kernel panics; ``dumpvault capture`` runs in its crash kernel; the host gets the same bytes back, and nobody else."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dumpvault.formats import vmcoreinfo
from dumpvault.formats.elf import ElfCore
from dumpvault.stages.source import open_source
from real.contents import SECRETS, count, pieces, same
from real.machine import Crash
from real.scenarios import HOST, SCENARIOS
from real.table import Row
from support.command import COMMAND, Home

every_machine = pytest.mark.parametrize("crash", list(SCENARIOS), indirect=True)
with_a_pipe = pytest.mark.parametrize(
    "crash", [n for n, s in SCENARIOS.items() if "filtered" in s.steps], indirect=True
)


def opened(home: Home, store: Path, vault: str) -> subprocess.Popen[bytes]:
    """``dumpvault open``, writing to a pipe."""
    command = [str(COMMAND), "open", vault, "--store", str(store), "-o", "-"]
    return subprocess.Popen(command, env=home.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def core_of(path: Path) -> tuple[ElfCore, dict[str, str]]:
    """The headers of a core, and what its VMCOREINFO says."""
    source = open_source(str(path))
    try:
        assert source.core is not None
        return source.core, vmcoreinfo.find(source.notes(), source.core.endian)
    finally:
        source.close()


@every_machine
def test_the_crash_kernel_captures(crash: Crash, site: Home, record: Callable[[Row], None]) -> None:
    """Every step succeeds, the collector stays under 64 MiB, and ``verify``, which needs no key, finds all of it."""
    assert not crash.faults, crash.console[-3000:]
    assert crash.ended, crash.console[-3000:]
    assert {name: step.code for name, step in crash.steps.items()} == dict.fromkeys(crash.steps, 0)
    store = crash.take_store()
    vaults = {step.vault for step in crash.steps.values() if step.vault}
    assert {path.name for path in (store / "vaults").iterdir()} == vaults
    for name in sorted(set(crash.steps) - {"plain"}):
        step = crash.steps[name]
        assert step.vault
        ran = site.run("verify", step.vault, "--store", store, "--json")
        assert ran.code == 0, ran.out + ran.err
        facts = ran.json
        assert (facts["verdict"], facts["foreign"], facts["signed_by"]) == ("intact", [], [f"collector@{HOST}"])
        record(Row(crash, step, facts["bytes"], facts["sealed_bytes"]))
        assert step.peak_kib
        assert step.peak_kib < 64 << 10


@every_machine
def test_what_is_opened_is_what_the_crash_kernel_read(crash: Crash, site: Home) -> None:
    """The vault gives back /proc/vmcore as ``dd`` copied it in the same crash kernel, bit for bit.

    On POWER, kexec lists the firmware's page (RTAS) as part of the dump even where it lies in the memory that it gives to
    the crash kernel, which goes on writing there: a second read of that page is another one.
    """
    vault = crash.steps["capture"].vault
    assert vault
    core, _ = core_of(crash.plain)
    own = [load for load in core.memory if load.address in crash.reserved]
    assert [load.length for load in own] == {"x86_64": [], "ppc64le": [64 << 10]}[crash.machine.platform.tag]
    but = range(own[0].offset, own[0].offset + own[0].length) if own else range(0)
    assert same(opened(site, crash.take_store(), vault), pieces(crash.plain), but) == crash.vmcore_size


@every_machine
def test_it_is_a_dump_of_the_crashed_kernel(crash: Crash) -> None:
    """The plain copy is an ELF core with the crashed kernel's own notes: what is sealed is no file of ours."""
    core, info = core_of(crash.plain)
    assert core.machine == {"x86_64": 62, "ppc64le": 21}[crash.machine.platform.tag]
    assert info["OSRELEASE"] == crash.machine.platform.kernel_version
    assert info["PAGESIZE"] == {"x86_64": "4096", "ppc64le": "65536"}[crash.machine.platform.tag]
    assert len(core.memory) > 1


@every_machine
def test_secrets_are_nowhere_on_the_disk(crash: Crash) -> None:
    """What stood in the crashed machine's memory stands in the plain copy, and in no byte of the disk with the store:
    not in an object, not in a deleted file, not in the file system's journal."""
    assert all(count(crash.plain, secret) >= 1 for secret in SECRETS)
    assert count(crash.plain, SECRETS[0]) >= 2000
    assert count(crash.store_disk, *SECRETS) == 0


@every_machine
def test_nothing_that_opens_was_in_the_machine(crash: Crash, site: Home) -> None:
    """The recipient's private half never left the host; the dump holds the collector's own signing key at the most."""
    secret = json.loads((site.path / "private" / "analyst.key").read_bytes())["secret"]
    assert count(crash.plain, secret.encode()[:40]) == count(crash.plain, base64.b64decode(secret)) == 0


@with_a_pipe
def test_a_makedumpfile_pipe(crash: Crash, site: Home, tmp_path: Path) -> None:
    """The opened stream is what makedumpfile wrote into the pipe in the crash kernel, to its end."""
    vault = crash.steps["filtered"].vault
    assert vault
    flat = tmp_path / "flat"
    ran = site.run("open", vault, "--store", crash.take_store(), "-o", flat)
    assert ran.code == 0, ran.err
    assert flat.read_bytes()[:12] == b"makedumpfile"
    with flat.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == crash.stream
    assert 0 < flat.stat().st_size < crash.vmcore_size
