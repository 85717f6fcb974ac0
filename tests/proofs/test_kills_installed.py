"""The installed command, killed while it captures a mounted machine that lives on: a handful of kills, end to end."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

from support.command import COMMAND, Home
from support.outcome import commits_of, finished, make_home
from support.served import Served, need_fuse, served

KILLS = 12
PAGES = 2048
Proof = Callable[[str], None]


def command(machine: Served, policy: Path) -> list[str]:
    names = ["--recipient", "analyst", "--signer", "collector", "--policy", str(policy), "--region-size", "256K"]
    return [str(COMMAND), "capture", "--vmcore", str(machine.vmcore), "--sysfs", str(machine.sysfs), *names]


def often(folder: Path) -> Path:
    """A policy that commits as often as one may ask for."""
    text = (Path(__file__).parents[2] / "policies" / "baseline.toml").read_text()
    path = folder / "often.toml"
    path.write_text(text.replace("mib = 1024\nseconds = 10", "mib = 1\nseconds = 1"))
    return path


def run(home: Home, words: list[str], seconds: float | None = None) -> tuple[int, str]:
    """Run the command, and kill it after so many seconds: its exit code, negative if it was killed, and its words."""
    process = subprocess.Popen(words, env=home.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    if process.poll() is None:
        process.kill()
    return process.wait(), process.communicate()[0]


def check(home: Home, machine: Served, vault: Path) -> int:
    """What must hold in the end; the number of releases that are reported as unknown."""
    verified = home.run("verify", vault.name)
    assert verified.code == 0, verified.err
    output = home.path / "opened"
    assert home.run("open", vault.name, "-o", output).code == 0
    twin = machine.twin()
    assert output.read_bytes() == twin.pristine
    assert not twin.kernel.double_released and not twin.kernel.runaway
    assert not twin.kernel.rejected and not twin.kernel.below and not twin.kernel.beyond
    outcomes = [outcome["result"] for commit in commits_of(vault) for outcome in commit["body"].get("outcomes", ())]
    assert set(outcomes) <= {"released", "unknown"}
    assert len(outcomes) == sum(len(commit["body"].get("releases", ())) for commit in commits_of(vault))
    return outcomes.count("unknown")


def test_installed_command_is_killed(tmp_path: Path, record_proof: Proof) -> None:
    """Killed at random moments of its whole run, start-up included, and run again with the same words until it is done,
    the installed command makes the dump whole, bit for bit, and releases nothing twice."""
    need_fuse()
    rng, policy = random.Random("installed"), often(tmp_path)
    home = make_home(tmp_path / "measured")
    with served(tmp_path / "machine", pages=PAGES) as machine:
        began = monotonic()
        assert run(home, command(machine, policy))[0] == 0
        seconds = monotonic() - began
    kills = attempts = unknown = number = 0
    while kills < KILLS:
        number += 1
        home = make_home(tmp_path / str(number))
        with served(tmp_path / f"machine-{number}", seed=number, pages=PAGES) as machine:
            for _ in range(4):
                code, _ = run(home, command(machine, policy), rng.uniform(0.3, 1.1) * seconds)
                kills += code == -9
                if any(finished(vault) for vault in home.vaults.glob("*")):
                    break
            code, words = run(home, command(machine, policy))
            assert code == 0 or (code == 14 and "which is finished" in words), words
            (vault,) = (path.parent for path in home.vaults.glob("*/vault.dsse.json"))
            unknown += check(home, machine, vault)
            attempts += sum(commit["kind"] == "takeover" for commit in commits_of(vault))
    assert attempts > number
    record_proof(
        f"installed command killed {kills} times on {number} mounted machines: {attempts} attempts, "
        f"{unknown} releases reported as unknown"
    )
