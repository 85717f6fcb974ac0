"""Handing memory back, through the installed command, on an emulated machine whose freed pages turn to noise at once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import COMMAND, Home
from support.served import Served, need_fuse, served

ARGUMENTS = ("--recipient", "analyst", "--signer", "collector", "--jobs", "2")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Commits as often as a policy allows, so that small memory is released in several steps."""
    text = (Path(__file__).parents[2] / "policies" / "baseline.toml").read_text()
    path = tmp_path / "often.toml"
    path.write_text(text.replace("mib = 64\nseconds = 10", "mib = 1\nseconds = 1"))
    return path


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Served]:
    need_fuse()
    with served(tmp_path / "machine", pages=2048) as one:
        yield one


def capture(home: Home, machine: Served, policy: Path, *more: object) -> list[str]:
    return [
        str(word)
        for word in (
            COMMAND, "capture", "--vmcore", machine.vmcore, "--sysfs", machine.sysfs, "--policy", policy,
            "--region-size", "256K", *ARGUMENTS, *more,
        )
    ]  # fmt: skip


def kill_after_a_release(home: Home, machine: Served, policy: Path) -> None:
    """A capture that ends by SIGKILL once some memory was handed back."""
    process = subprocess.Popen(
        capture(home, machine, policy), env=home.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not machine.state()["writes"]:
        assert process.poll() is None
    process.kill()
    process.wait()


def test_memory_goes_back_while_the_dump_is_read(home: Home, machine: Served, policy: Path, tmp_path: Path) -> None:
    """Everything comes back bit for bit although it was freed while later regions were read; nothing twice, all told."""
    done = subprocess.run(capture(home, machine, policy), env=home.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    vault = done.stdout.strip()
    twin, state = machine.twin(), machine.state()
    assert len(state["writes"]) > 3
    assert not state["double_released"]
    assert not state["runaway"]
    assert home.call("open", vault, "-o", tmp_path / "copy").code == 0
    assert (tmp_path / "copy").read_bytes() == twin.pristine
    facts = home.call("info", vault, "--json").json
    assert facts["release_unknown_bytes"] == facts["release_failed_bytes"] == 0
    assert facts["released_bytes"] == facts["release_authorised_bytes"] == sum(length for _, length in state["writes"])


def test_the_second_capture_is_refused(home: Home, machine: Served, policy: Path) -> None:
    """Once memory was handed back there is nothing left to capture: reading it again would seal noise as genuine."""
    command = capture(home, machine, policy)
    assert subprocess.run(command, env=home.env, capture_output=True, check=False).returncode == 0
    again = subprocess.run(command, env=home.env, capture_output=True, text=True, check=False)
    assert again.returncode == 14, again.stderr
    assert "handed back" in again.stderr
    assert len(list(home.vaults.iterdir())) == 1


def test_a_rolled_back_store_is_refused(home: Home, machine: Served, policy: Path, tmp_path: Path) -> None:
    """A store that forgot commits under which memory was freed must not be gone on with, nor be replaced by a new vault."""
    kill_after_a_release(home, machine, policy)
    vault = next(home.vaults.iterdir())
    saved = tmp_path / "saved"
    shutil.copytree(vault, saved)
    (vault / "manifest.dsse.json").unlink(missing_ok=True)
    for path in sorted((vault / "commits").iterdir())[1:]:
        path.unlink()
    before = machine.state()["writes"]
    again = subprocess.run(capture(home, machine, policy), env=home.env, capture_output=True, text=True, check=False)
    assert again.returncode == 13, again.stderr
    assert "rolled back" in again.stderr
    shutil.rmtree(vault)
    again = subprocess.run(capture(home, machine, policy), env=home.env, capture_output=True, text=True, check=False)
    assert again.returncode == 13, again.stderr
    assert machine.state()["writes"] == before


def test_killed_and_resumed(home: Home, machine: Served, policy: Path, tmp_path: Path) -> None:
    """SIGKILL after the first release; the next run takes over with fresh keys and ends in one manifest."""
    kill_after_a_release(home, machine, policy)
    done = subprocess.run(capture(home, machine, policy), env=home.env, capture_output=True, text=True, check=False)
    if done.returncode == 14:
        pytest.skip("the first run had finished before it could be killed")
    assert done.returncode == 0, done.stderr
    vault = done.stdout.strip()
    state = machine.state()
    assert not state["double_released"]
    assert home.call("verify", vault).code == 0
    assert home.call("open", vault, "-o", tmp_path / "copy").code == 0
    assert (tmp_path / "copy").read_bytes() == machine.twin().pristine
    manifest = json.loads((home.vaults / vault / "manifest.json").read_text())["predicate"]
    assert len(manifest["attempts"]) == 2
    assert sum(int(a["bytes"], 16) for a in manifest["attempts"]) == len(machine.twin().pristine)


def test_trace_of_the_order(home: Home, machine: Served, policy: Path, tmp_path: Path, record_proof: object) -> None:
    """The kernel's own view: every write to release_region comes after the syncs and links of all that it frees."""
    if shutil.which("strace") is None:
        pytest.skip("NO strace COMMAND")
    trace = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-y", "-o", trace, "-e", "trace=fsync,fdatasync,link,linkat,rename,renameat2,write",
         *capture(home, machine, policy)],
        env=home.env, capture_output=True, check=True,
    )  # fmt: skip
    events = list(order(trace.read_text(errors="replace")))
    commits = [i for i, event in enumerate(events) if re.fullmatch(r"link commits/\d+", event)]
    releases = [i for i, event in enumerate(events) if event == "release"]
    assert len(releases) >= 3
    vault = next(home.vaults.iterdir())
    durable: set[str] = set()
    for i, event in enumerate(events):
        if event.startswith("durable "):
            durable.add(event.removeprefix("durable "))
        if event == "release":
            last = max(c for c in commits if c < i)
            number = int(events[last].split("/")[1])
            needed = named_by(vault, number)
            assert needed <= durable, f"released before {sorted(needed - durable)[:3]} were durable"
    record_proof(f"order: {len(releases)} writes to release_region, each after the syncs of all it frees")  # type: ignore[operator]


def order(trace: str) -> Iterator[str]:
    """What matters of a trace: a link of an object, an object durable (file synced, linked, directory synced), a release."""
    synced: set[str] = set()
    linked: dict[str, str] = {}
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        thread, _, text = line.partition(" ")
        if text.rstrip().endswith("<unfinished ...>"):
            begun[thread] = text.rstrip().removesuffix("<unfinished ...>")
            if "release_region" in text:
                yield "release"  # from here on memory may be gone
            continue
        resumed = re.match(r"\s*<... \w+ resumed>(.*)", text)
        whole = begun.pop(thread, "") + resumed[1] if resumed else text
        call = re.search(r"(\w+)\((.*)\)\s+= (\S+)", whole)
        if call is None or call[3].startswith("-1"):
            continue
        name, arguments = call[1], call[2]
        if name in ("fsync", "fdatasync") and (path := re.search(r"<([^>]*)>", arguments)):
            synced.add(path[1])
            for final, folder in list(linked.items()):
                if folder == path[1]:
                    del linked[final]
                    yield f"durable {final}"
        elif name == "linkat":
            names = re.findall(r"\d+<([^>]*)>, \"([^\"]*)\"", arguments)
            if len(names) == 2:
                (folder, temporary), (_, final) = names
                assert any(path.startswith(f"{folder}/{temporary}") for path in synced), (
                    f"{final} linked before it was synced"
                )
                short = re.sub(r".*/vaults/[0-9a-f]{32}/?", "", f"{folder}/{final}")
                linked[short] = folder
                yield f"link {short.removesuffix('.dsse.json')}"
        elif name == "write" and "release_region" in arguments and not resumed:
            yield "release"


def named_by(vault: Path, number: int) -> set[str]:
    """Every object that the commits up to ``number`` rest on."""
    import base64

    names = {"vault.dsse.json"}
    for n in range(number + 1):
        names.add(f"commits/{n}.dsse.json")
        payload = json.loads((vault / f"commits/{n}.dsse.json").read_text())["payload"]
        predicate = json.loads(base64.b64decode(payload))["predicate"]
        if predicate["kind"] == "takeover":
            names.add(f"keybag/{predicate['attempt']}.json")
        for region in predicate["body"].get("regions", ()):
            names.add(f"regions/{predicate['attempt']}/{region['index']}.sealed")
            names.add(f"keys/{predicate['attempt']}/{n}.json")
    return names
