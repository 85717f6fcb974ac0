"""Fills a crash initramfs: the modules that a capture loads, this host's keys, and a command that starts it.

What an image holds is pinned in a crash kernel's small memory, so modules go in as bytecode without their sources, and
nothing that only other commands need. Libraries of the binaries are left to initramfs-tools and dracut, which know how.
"""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
import tempfile
from typing import Any

from dumpvault.errors import BadInput, StoreFailed, VaultError
from dumpvault.flows.capture import parties_for, signers_for
from dumpvault.flows.demo import write_memory
from dumpvault.flows.keys import new_signer
from dumpvault.flows.planning import KEYS, plan
from dumpvault.flows.site import Site, init_site
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sharing import Quorum
from dumpvault.stages.trust import Folder

__all__ = ["COMMAND", "fill_image"]

#: The command's place in an image.
COMMAND = "/usr/bin/dumpvault"
_FLAGS = ["-I", "-S", "-B", "-X", "utf8"]
_START = "import sys; sys.path += {paths!r}; from {module} import {function}; {function}()"


def fill_image(
    site: Site,
    image: str,
    host: str,
    signers: tuple[str, ...],
    recipients: tuple[str, ...],
    policy: str,
    quorum: str | None = None,
) -> list[str]:
    """Write below ``image`` all that a capture on ``host`` needs; returns the binaries that the caller must add.

    Raises ``VaultError`` where a capture with these keys and this policy would be refused, or did not work.
    """
    if not os.path.isdir(image):
        raise BadInput(f"{image} is no directory", "It is the tree that an initramfs is made from.")
    keys = [key.signer for key in signers_for(site, signers, host)]
    chosen, threshold = parties_for(site, recipients, quorum)
    folder: Folder = "custodians" if threshold else "recipients"
    rules = site.policy(policy)
    # Not of its store, which stands where the crash kernel mounts it.
    rules.require(plan(site, rules, recipients=chosen, quorum=threshold, signers=keys), KEYS)
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    paths = _own_paths(python)
    names = tuple(recipient.name for recipient in chosen)
    parties = [word for name in names for word in ("--recipient", name)]
    if threshold:
        parties = ["--quorum", Quorum(threshold, names).text]
    found = _rehearse(site, python, paths, {key.algorithm.name for key in keys}, chosen, folder, parties, policy)
    try:
        standard = os.path.dirname(os.__file__)
        os.makedirs(_in(image, os.path.join(standard, "lib-dynload")), exist_ok=True)
        # Its landmark: by os.py, or os.pyc, Python finds its own directory (Modules/getpath.py).
        for source in sorted({*found["sources"], os.__file__}):
            _compile(source, _in(image, f"{source}c"))
        start = _START.format(paths=paths, module="dumpvault.cli", function="main").replace("'", '"')
        _write(_in(image, COMMAND), f"#!/bin/sh\nexec {python} {' '.join(_FLAGS)} -c '{start}' \"$@\"\n", 0o755)

        home = _in(image, "/etc/dumpvault")
        _write(f"{home}/policies/{rules.name}.toml", rules.text, 0o644)
        for recipient in chosen:
            _write(f"{home}/keys/{folder}/{recipient.name}.pub", recipient.line, 0o644)
        with open(site.trust.allowed_signers_path, encoding="utf-8") as file:
            _write(f"{home}/keys/allowed_signers", file.read(), 0o644)
        os.makedirs(f"{home}/private", mode=0o700, exist_ok=True)
        for signer in signers:
            with open(site.trust.private_path(signer), encoding="utf-8") as file:
                _write(f"{home}/private/{signer}.key", file.read(), 0o600)
    except OSError as error:
        raise StoreFailed(f"{error.filename}: {error.strerror}", "The image is not whole; do not use it.") from None
    return [python, *found["binaries"]]


def _own_paths(python: str) -> list[str]:
    """Where this program's packages are, beyond the interpreter's own directories."""
    done = subprocess.run(  # noqa: S603 - the interpreter that runs us
        [python, *_FLAGS, "-c", "import sys; print(*sys.path, sep='\\n')"],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    bare = set(done.stdout.splitlines())
    bare.add(os.path.dirname(os.path.realpath(sys.argv[0])))  # of the command's script, which holds no modules
    paths = [path for path in sys.path if os.path.isdir(path) and path not in bare]
    if any(set(path) & set("'\"\\ \n") for path in paths):
        raise BadInput(f"a Python path cannot be written into a script: {paths}", "Install dumpvault elsewhere.")
    return paths


def _rehearse(
    site: Site,
    python: str,
    paths: list[str],
    algorithms: set[str],
    chosen: list[Recipient],
    folder: Folder,
    parties: list[str],
    policy: str,
) -> dict[str, Any]:
    """Capture for those whom ``parties`` names, as the policy has a collector work; what was loaded."""
    with tempfile.TemporaryDirectory(prefix="dumpvault-rehearsal-") as place:
        trial = Site.load({"DUMPVAULT_HOME": os.path.join(place, "site")})
        init_site(trial)
        for algorithm in algorithms:
            new_signer(trial, algorithm, "collector", None, algorithm=algorithm)
        for recipient in chosen:
            trial.trust.add_recipient(recipient, folder)
        write_memory(os.path.join(place, "vmcore"), 1)
        rules = os.path.join(place, "rehearsal.toml")
        _write(rules, site.policy(policy).rehearsal(), 0o644)
        capture = [
            "capture", os.path.join(place, "vmcore"), "--policy", rules,
            "--release", "none", *(word for name in sorted(algorithms) for word in ("--signer", name)), *parties,
        ]  # fmt: skip
        runs = [[*capture, "--compress", "zstd"], [*capture, "--compress", "none"]]
        runs += [["capture", f"{place}/none"], ["capture", "--nonsense"], ["capture", "--help"]]
        start = _START.format(paths=paths, module="dumpvault.cli.footprint", function="record")
        done = subprocess.run(  # noqa: S603 - the interpreter that runs us
            [python, *_FLAGS, "-c", start, json.dumps(runs)], check=False, capture_output=True, text=True,
            env={"DUMPVAULT_HOME": trial.home, "PATH": os.environ.get("PATH", os.defpath)},
        )  # fmt: skip
    if done.returncode:
        raise VaultError(f"the interpreter of the image, {python}, does not run dumpvault: {done.stderr.strip()}", "")
    found: dict[str, Any] = json.loads(done.stdout)
    if found["codes"][:2] != [0, 0]:
        raise VaultError(f"a rehearsed capture failed: {found['problems']}", "One after a crash would fail alike.")
    return found


def _in(image: str, path: str) -> str:
    return os.path.join(image, os.path.abspath(path).lstrip("/"))


def _compile(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    py_compile.compile(
        source, target, dfile=source, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


def _write(path: str, text: str, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(fd, mode)
