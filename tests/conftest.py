"""Settings of the whole test session."""

import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

# Read when matplotlib is first imported, by a test or by what a test imports.
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run_script(tmp_path):
    """What a script prints that runs as ``__main__``, in a process of one thread."""

    def run(code, *arguments):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(code))
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


# How `-n 2` spreads the tests: by file, so that each fitted model is made once, and
# large files first; files of long tests that share nothing one test at a time.
SPREAD = {"test_examples", "test_random_problems", "test_extras", "test_readme"}
# Files that start processes of their own: never two at once.
OF_PROCESSES = {
    "test_clusters",
    "test_restart_cache",
    "test_restarts",
    "test_surviving",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getvalue("dist") != "load":  # another way was asked for
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            name = Path(nodeid.partition("::")[0]).stem
            if name in OF_PROCESSES:
                return "processes"
            return nodeid if name in SPREAD else name

    return ByFile(config, log)


# Share of the random problems that are well-posed and may yet be refused, judged where
# there are enough of them.
MAX_FLAGGED, ENOUGH = 0.02, 100


def verdicts(reporter):
    """How many random problems of each kind there were, in all processes."""
    reports = [r for key in ("passed", "failed") for r in reporter.stats.get(key, [])]
    found = Counter()
    for report in reports:
        found.update(dict(getattr(report, "user_properties", ())).get("verdicts", {}))
    return found


def flagged_of(found):
    """Numbers of the well-posed that were flagged, and of all well-posed."""
    regular = {k: n for k, n in found.items() if k.startswith(("right", "wrong"))}
    flagged = (n for kind, n in regular.items() if kind.endswith("flagged"))
    return sum(flagged), sum(regular.values())


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    flagged, total = flagged_of(verdicts(reporter) if reporter is not None else {})
    if total >= ENOUGH and flagged > MAX_FLAGGED * total:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    found = verdicts(terminalreporter)
    if found:
        terminalreporter.section("random problems")
        for kind, count in sorted(found.items()):
            terminalreporter.write_line(f"{count:5d} {kind}")
        flagged, total = flagged_of(found)
        terminalreporter.write_line(
            f"{flagged} of {total} well-posed ones flagged, {MAX_FLAGGED:.0%} allowed"
        )


def pytest_sessionstart():
    # Docstring examples lie outside tests/, where the fixture below does not reach.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread():
    """Small networks run many times slower with more, and bits depend on it."""
    torch.set_num_threads(1)
