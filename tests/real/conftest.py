"""The machines that these tests crash, two at a time; what they came to, as a table; and skips that are failures in CI."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from real.cache import Missing
from real.machine import Crash
from real.scenarios import SCENARIOS, make_site, what_a_guest_gets
from real.table import Row, table
from support.command import Home

_ROWS = pytest.StashKey[list[Row]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with _missing_is_a_skip():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with _missing_is_a_skip():
        return (yield)


@contextmanager
def _missing_is_a_skip() -> Iterator[None]:
    """What this machine lacks is a skip that says so; in CI, where all of it can be had, a failure."""
    try:
        yield
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"NOT TESTED: {error}")
        pytest.skip(f"NOT TESTED: {error}")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The security team's site."""
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def crashes(
    request: pytest.FixtureRequest, site: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Crash]]]:
    """Every machine that a chosen test asks for, begun at once: a guest is slow and uses one processor."""
    chosen = {item.callspec.params.get("crash") for item in request.session.items if hasattr(item, "callspec")}
    guest = what_a_guest_gets(site, tmp_path_factory.mktemp("guest"))
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(scenario.crash, guest, tmp_path_factory.mktemp(name))
            for name, scenario in SCENARIOS.items()
            if name in chosen
        }


@pytest.fixture(scope="session")
def crash(request: pytest.FixtureRequest, crashes: dict[str, Future[Crash]]) -> Crash:
    """The machine called ``request.param``, crashed, captured and switched off."""
    return crashes[request.param].result()


@pytest.fixture(scope="session")
def record(pytestconfig: pytest.Config) -> Callable[[Row], None]:
    """Adds a row to the table at the end of the run."""
    return pytestconfig.stash.setdefault(_ROWS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(_ROWS, [])
    if rows:
        terminalreporter.section("captures in crash kernels")
        for line in table(rows):
            terminalreporter.write_line(line)
