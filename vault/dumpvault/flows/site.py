"""A site's home: where its configuration, keys, policies and default store are (docs/reference/configuration.md)."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from dumpvault.errors import BadInput, StoreFailed
from dumpvault.formats.policy import Policy
from dumpvault.model import Store
from dumpvault.stages.store import open_store
from dumpvault.stages.trust import TrustDirectory, read_text

__all__ = ["Site", "init_site", "shipped"]

_SETTINGS = ("store", "policy", "policies", "signers", "recipients", "quorum")
_FORMS: dict[str, tuple[type, str]] = {
    "signers": (list, "a list of names"),
    "recipients": (list, "a list of names"),
    "policies": (dict, 'a table of host patterns and policies, such as "db*" = "pci-dss-4"'),
}
_CONFIG = """\
# dumpvault's configuration. Flags and DUMPVAULT_* variables override it.

# Where vaults are kept: a directory.
# store = "/var/lib/dumpvault/store"

# The policy of a capture, by name or path.
# policy = "baseline"

# Who seals, and for whom, when capture is not told. Each signer signs every object; most policies need one.
# signers = ["collector"]
# recipients = ["analyst"]
# Or, instead of recipients, custodians, so many of whom must agree.
# quorum = "2of3:alice,bob,carol"

# What a vault must obey when it is verified or opened here, by the name of its host; the first pattern that fits counts.
# [policies]
# "db*" = "pci-dss-4"
# "*" = "baseline"
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Paths and settings of one home."""

    home: str
    data: str
    #: Where journals of releases are: gone with the next boot, as the released memory is.
    run: str
    store_url: str
    policy_name: str
    signers: tuple[str, ...]
    recipients: tuple[str, ...]
    quorum: str | None = None
    #: systemd's credentials of this service, if it has any.
    credentials: str | None = None
    #: The policies that vaults must obey here: (pattern of host names, policy), in order, and what holds for all others.
    policies: tuple[tuple[str, str], ...] = ()
    policy_otherwise: str | None = None

    @classmethod
    def load(cls, environ: Mapping[str, str], root: str | None = None) -> Site:
        """Find the home and read its configuration. Raises ``BadInput`` for a bad one.

        ``root`` asks for the system's own site as it lies below that directory, whoever asks and whatever ``environ``.
        """
        if root is not None:
            environ = {}
        home, data, run, files = _places(environ) if root is None else _below(root)
        settings: dict[str, object] = {}
        for path in files:
            if os.path.exists(path):
                found = _read_config(path)
                for one, other in (("quorum", "recipients"), ("recipients", "quorum")):
                    if one in found:
                        settings.pop(other, None)  # who opens is one setting with two spellings
                settings |= found
                _anchor(settings, os.path.dirname(path))
        store = environ.get("DUMPVAULT_STORE") or settings.get("store") or os.path.join(data, "store")
        if root is not None and settings.get("store"):
            store = os.path.join(root, str(store).removeprefix("file://").lstrip("/"))
        signers = (
            environ["DUMPVAULT_SIGNERS"].split(",") if environ.get("DUMPVAULT_SIGNERS") else settings.get("signers")
        )
        policies = settings.get("policies", {})
        policy = environ.get("DUMPVAULT_POLICY") or settings.get("policy")
        return cls(
            home=home,
            data=data,
            run=environ.get("DUMPVAULT_RUN") or run,
            store_url=os.path.expanduser(str(store)),
            policy_name=str(policy or "baseline"),
            signers=_names(signers),
            recipients=_names(settings.get("recipients")),
            quorum=str(settings["quorum"]) if settings.get("quorum") else None,
            credentials=environ.get("CREDENTIALS_DIRECTORY") or None,
            policies=tuple(policies.items()) if isinstance(policies, dict) else (),
            policy_otherwise=str(policy) if policy else None,
        )

    @property
    def trust(self) -> TrustDirectory:
        return TrustDirectory(os.path.join(self.home, "keys"), os.path.join(self.home, "private"), self.credentials)

    @property
    def requests(self) -> str:
        """Where the one-time keys of this home's own requests are."""
        return os.path.join(self.home, "private", "requests")

    def store(self, url: str | None = None, *, create: bool = False) -> Store:
        return open_store(url or self.store_url, create=create)

    def policy(self, name: str | None = None) -> Policy:
        """A policy by name (the site's before the shipped ones) or path. Raises ``BadInput``."""
        path = self.policy_path(name or self.policy_name)
        return Policy.parse(os.path.basename(path).removesuffix(".toml"), read_text(path, "a policy"), path)

    def policy_for(self, host: str) -> str | None:
        """The policy that a vault of ``host`` must obey here, by name or path; None where the configuration says none."""
        from fnmatch import fnmatchcase

        return next((name for pattern, name in self.policies if fnmatchcase(host, pattern)), self.policy_otherwise)

    def policy_names(self) -> list[str]:
        """Every policy that may be named: the site's and the shipped ones."""
        places = [os.path.join(self.home, "policies"), *shipped("policies")]
        files = {name for place in places if os.path.isdir(place) for name in os.listdir(place)}
        return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))

    def policy_path(self, name: str) -> str:
        """Where the policy ``name`` stands. Raises ``BadInput``."""
        if "/" in name or name.endswith(".toml"):
            return name
        places = [os.path.join(self.home, "policies"), *shipped("policies")]
        for place in places:
            path = os.path.join(place, f"{name}.toml")
            if os.path.exists(path):
                return path
        raise BadInput(
            f"no policy {name!r}", f"Known: {', '.join(self.policy_names())}. A path to a .toml file works too."
        )


def _places(environ: Mapping[str, str]) -> tuple[str, str, str, list[str]]:
    """(home, data, run, configuration files in the order they are read)."""
    home = environ.get("DUMPVAULT_HOME")
    if home:
        home = os.path.abspath(home)
        return home, home, os.path.join(home, "run"), [os.path.join(home, "config.toml")]
    if os.geteuid() == 0:
        return "/etc/dumpvault", "/var/lib/dumpvault", "/run/dumpvault", ["/etc/dumpvault/config.toml"]
    user = os.path.expanduser("~")
    config = os.path.join(environ.get("XDG_CONFIG_HOME") or os.path.join(user, ".config"), "dumpvault")
    data = os.path.join(environ.get("XDG_DATA_HOME") or os.path.join(user, ".local", "share"), "dumpvault")
    run = os.path.join(environ.get("XDG_RUNTIME_DIR") or data, "dumpvault-run")
    return config, data, run, ["/etc/dumpvault/config.toml", os.path.join(config, "config.toml")]


def _below(root: str) -> tuple[str, str, str, list[str]]:
    """The places of root's own site in a file system that is mounted at ``root``."""
    home, data, run = (os.path.join(root, path) for path in ("etc/dumpvault", "var/lib/dumpvault", "run/dumpvault"))
    return home, data, run, [os.path.join(home, "config.toml")]


def _read_config(path: str) -> dict[str, object]:
    try:
        settings = tomllib.loads(read_text(path, "a configuration"))
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: not TOML: {error}", "Correct the file.") from None
    for key, value in settings.items():
        if key not in _SETTINGS:
            raise BadInput(f"{path}: unknown setting {key!r}", f"Known: {', '.join(_SETTINGS)}.")
        kind, words = _FORMS.get(key, (str, "a string"))
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not isinstance(value, kind) or not all(isinstance(one, str) and one for one in inner):
            raise BadInput(f"{path}: {key!r} must be {words}", "Correct it.")
    if "quorum" in settings and "recipients" in settings:
        raise BadInput(
            f"{path}: 'quorum' and 'recipients' exclude each other",
            "A recipient opens alone what a quorum is to guard.",
        )
    return settings


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _anchor(settings: dict[str, object], folder: str) -> None:
    """Paths of policies are meant from the configuration's folder: never from where somebody happens to stand."""

    def path(name: str) -> str:
        return os.path.join(folder, os.path.expanduser(name)) if "/" in name or name.endswith(".toml") else name

    if isinstance(policy := settings.get("policy"), str):
        settings["policy"] = path(policy)
    if isinstance(policies := settings.get("policies"), dict):
        settings["policies"] = {pattern: path(name) for pattern, name in policies.items()}


def shipped(folder: str) -> list[str]:
    """Where a folder of data may be: beside the package in a wheel, at the top of the tree in a checkout."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [os.path.join(package, f"_{folder}"), os.path.join(os.path.dirname(os.path.dirname(package)), folder)]


def init_site(site: Site) -> list[str]:
    """Make the home's directories and configuration; returns what was made. What exists is left alone."""
    made = []
    try:
        for path, mode in (
            (site.home, 0o755),
            (site.trust.public, 0o755),
            (os.path.join(site.trust.public, "recipients"), 0o755),
            (os.path.join(site.trust.public, "custodians"), 0o755),
            (site.trust.private, 0o700),
            (os.path.join(site.home, "policies"), 0o755),
        ):
            if not os.path.isdir(path):
                os.makedirs(path, mode=mode)
                made.append(path)
        config = os.path.join(site.home, "config.toml")
        if not os.path.exists(config):
            with open(config, "x", encoding="utf-8") as file:
                file.write(_CONFIG)
            made.append(config)
    except OSError as error:
        raise StoreFailed(
            f"{error.filename}: {error.strerror}", "Set DUMPVAULT_HOME to a place you may write."
        ) from None
    there = os.path.isdir(site.store_url)
    site.store(create=True)
    if not there:
        made.append(site.store_url)
    return made
