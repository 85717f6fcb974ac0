"""Debian packages of any architecture, downloaded and unpacked, never installed; the host's apt is read and not changed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from time import time

from real.cache import Missing, folder, run, tool

__all__ = ["Packages"]

_DAY = 86400


class Packages:
    """The packages of one Debian architecture, by an apt whose state is in the cache and whose sources are the host's."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self._home = folder() / f"apt-{architecture}"
        self._debs = folder() / f"debs-{architecture}"

    def fetch(self, names: Sequence[str]) -> list[Path]:
        """The newest .deb of each package. Raises ``Missing`` where one cannot be had."""
        try:
            wanted = self._wanted(tuple(names))
        except subprocess.CalledProcessError as error:
            raise Missing(f"no packages {' '.join(names)} for {self.architecture}: {error.cmd}") from None
        self._debs.mkdir(exist_ok=True)
        absent = [name for name, file in wanted if not (self._debs / file).exists()]
        if absent:
            try:
                self._apt("apt-get", "download", *absent)
            except subprocess.CalledProcessError as error:
                raise Missing(f"{' '.join(absent)} for {self.architecture} cannot be downloaded: {error.cmd}") from None
        found = [self._debs / file for _, file in wanted]
        for path in found:
            if not path.exists():
                raise Missing(f"apt-get download left no {path.name}")
        return found

    def depends(self, package: str, prefix: str) -> str:
        """The name of the dependency of ``package`` that begins with ``prefix``."""
        try:
            lines = self._apt("apt-cache", "depends", package).decode().splitlines()
        except subprocess.CalledProcessError as error:
            raise Missing(f"no package {package} for {self.architecture}: {error.cmd}") from None
        for line in lines:
            word, _, name = line.strip().partition(": ")
            if word == "Depends" and name.startswith(prefix):
                return name
        raise Missing(f"{package} for {self.architecture} depends on no {prefix}*")

    def with_libraries(self, packages: Sequence[str]) -> list[str]:
        """The packages and every library package that they need, directly or through another such."""
        found = dict.fromkeys(packages)
        todo = list(packages)
        while todo:
            for line in self._apt("apt-cache", "depends", "-i", *todo).decode().splitlines():
                word, _, name = line.strip().partition(": ")
                if word.lstrip("|").endswith("Depends") and name.startswith(("lib", "zlib")) and name not in found:
                    found[name] = None
            todo, packages = [name for name in found if name not in packages], [*found]
        return [*found]

    @cache  # noqa: B019 - as many objects as architectures
    def _wanted(self, names: tuple[str, ...]) -> list[tuple[str, str]]:
        """(package, file name) of each; apt prints one line for each that it would fetch: 'URI' FILE SIZE DIGEST."""
        wanted = []
        for line in self._apt("apt-get", "download", "--print-uris", *names).decode().splitlines():
            file = line.split(" ")[1]
            wanted.append((file.partition("_")[0], file))
        return wanted

    def _apt(self, program: str, *arguments: str) -> bytes:
        self._update()
        # "download --print-uris" leaves out what is in the folder it runs in.
        where = self._home if "--print-uris" in arguments else self._debs
        return run(tool(program, "apt"), *self._options(), *arguments, cwd=where)

    def _options(self) -> list[str]:
        """Words that make apt keep its state here; the file is read after the host's own configuration."""
        settings = {
            "Dir::State": self._home / "state",
            "Dir::State::status": self._home / "status",
            "Dir::Cache": self._home / "cache",
            "APT::Architecture": self.architecture,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        # What the host does after an update is about the host.
        lines = [
            "#clear APT::Architectures;",
            "#clear APT::Update::Post-Invoke;",
            "#clear APT::Update::Post-Invoke-Success;",
        ]
        lines += [f'APT::Architectures {{ "{self.architecture}"; }};']
        lines += [f'{key} "{value}";' for key, value in settings.items()]
        (self._home / "apt.conf").write_text("\n".join(lines) + "\n")
        return ["-q", "-c", str(self._home / "apt.conf")]

    def _update(self) -> None:
        """Fetch the lists if there are none of today; older ones serve where there is no network."""
        stamp = self._home / "updated"
        if stamp.exists() and time() - stamp.stat().st_mtime < _DAY:
            return
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self._home / part).mkdir(parents=True, exist_ok=True)
        self._debs.mkdir(exist_ok=True)
        (self._home / "status").touch()
        try:
            # One source without this architecture fails the whole command and matters to nobody.
            subprocess.run(
                [tool("apt-get", "apt"), *self._options(), "update"], capture_output=True, check=False, timeout=300
            )
        except subprocess.TimeoutExpired:
            raise Missing("apt-get update came to no end in 5 minutes") from None
        stamp.touch()
