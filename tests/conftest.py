"""Settings of the whole test session."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

# Read when matplotlib is first imported, by a test or by what a test imports.
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

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
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def pytest_sessionstart():
    # Docstring examples lie outside tests/, where the fixture below does not reach.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread():
    """Small networks run many times slower with more, and bits depend on it."""
    torch.set_num_threads(1)
