"""Every example script runs without a display."""

import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))
# Alone, as users start them: what begins other processes. Others share this one, whose
# imports are seconds of each.
ALONE = ("plot_dask_restarts", "plot_pipeline_search", "plot_quickstart")
ENVIRONMENT = {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
TIMEOUT = 900  # seconds: a machine may be busy, an example takes a minute


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(script, tmp_path, monkeypatch, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    if script.stem in ALONE:
        run_alone(script, tmp_path)
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])
    pyplot.switch_backend("Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        runpy.run_path(str(script), run_name="__main__")
    drawn = pyplot.get_fignums()
    pyplot.close("all")
    assert drawn, "an example shows a picture"
    assert capsys.readouterr().out.strip(), "and says what it found"


def run_alone(script, folder):
    if "dask" in script.stem:
        pytest.importorskip("distributed")
    # The script's directory replaces the working directory on sys.path: name the root.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    completed = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert completed.returncode == 0, f"{script.name} failed:\n{completed.stderr}"
