"""Smoke runs of the benchmarks, in one process: imports are most of each."""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"

sys.path.insert(0, str(FOLDER))
for script in sorted(FOLDER.glob("bench_*.py")):
    print(f"-- {script.name}", flush=True)
    sys.argv = [str(script), "--smoke"]
    runpy.run_path(str(script), run_name="__main__")
