"""Run benchmarks one after another, and write what they found into one table.

Each runs in a process of its own, on one thread. The report has a line for every ratio
that was printed, with the machine and the versions, so that two of them can be compared
by `diff`.

    python benchmarks/run.py [--all] [--smoke] [--report FILE] [NAME ...]

NAME is that of a script without ``bench_`` and ``.py``, as in ``fit``.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
LIBRARIES = ("sksetsens", "numpy", "scipy", "scikit-learn", "torch", "skorch")
# "12.6 x", "12x", "915 g", "Pearson 0.999", "slope 1", "power 0.27", "ratios ... 1.7".
RATIO = re.compile(
    r"\d ?x\b|\d g\b|\bratios?\b|\bpower\b|Pearson|Spearman|\bslope\b|LDS"
)
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}


def ran(name, smoke):
    """Exit status, lines and wall seconds of one benchmark."""
    command = [sys.executable, str(FOLDER / f"bench_{name}.py")]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--smoke"] if smoke else command,
        env={**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return process.returncode, lines, time.monotonic() - began


def processor():
    """Its name, where the system tells."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = re.findall(r"model name\s*: (.*)", told)
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def report(results, smoke):
    """The Markdown page."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    page = [
        f"# Benchmarks, {datetime.date.today()}" + (", smoke runs" if smoke else ""),
        "",
        f"{processor()}; {platform.platform()}; Python {platform.python_version()}; "
        + ", ".join(versions),
        "",
        "| benchmark | seconds | found |",
        "|---|---|---|",
    ]
    for name, (status, lines, seconds) in results.items():
        told = [line for line in lines if RATIO.search(line)]
        if status:
            told.insert(0, f"FAILED with exit status {status}")
        for line in told or ["no ratio"]:
            cell = re.sub(r"\s+", " ", line).strip().replace("|", "\\|")
            page.append(f"| {name} | {seconds:.0f} | {cell} |")
    return "\n".join(page) + "\n"


def main():
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every benchmark")
    parser.add_argument("--smoke", action="store_true", help="a few seconds of each")
    parser.add_argument("--report", metavar="FILE", help="Markdown to write")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    names = NAMES if arguments.all else arguments.names
    if not names:
        parser.error("name a benchmark, or give --all")
    results = {}
    for name in names:
        print(f"== {name}", flush=True)
        results[name] = ran(name, arguments.smoke)
        if arguments.report:
            # After each: a long run that is stopped has written what it found.
            Path(arguments.report).write_text(report(results, arguments.smoke))
    sys.exit(any(status for status, _, _ in results.values()))


if __name__ == "__main__":
    main()
