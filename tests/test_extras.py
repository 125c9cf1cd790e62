"""What is imported is declared, and nothing needs an extra before it is used."""

import ast
import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {"scikit-learn": "sklearn"}  # where the name to import is another


def _modules(requirements):
    """Names to import what is required."""
    names = {Requirement(text).name for text in requirements}
    return {MODULES.get(name, name) for name in names}


EXTRAS = PROJECT["optional-dependencies"]
NEEDED = _modules(PROJECT["dependencies"])
OPTIONAL = _modules(sum(EXTRAS.values(), [])) - NEEDED


def test_imports_are_declared():
    """Also those that would be there because something else needs them."""
    found = set()
    for path in (ROOT / "sksetsens").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    libraries = found - set(sys.stdlib_module_names) - {"sksetsens"}
    assert libraries >= NEEDED
    assert libraries - NEEDED <= _modules(EXTRAS["plot"] + EXTRAS["dask"])


_SCRIPT = '''
    import importlib
    import pkgutil
    import sys

    import numpy as np

    OPTIONAL = set(sys.argv[1:])

    class Without:
        """A finder that does not find the optional libraries."""

        def __init__(self, finder):
            self.finder = finder

        def __getattr__(self, name):
            return getattr(self.finder, name)

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in OPTIONAL:
                return None
            return self.finder.find_spec(name, path, target)

    sys.meta_path[:] = map(Without, sys.meta_path)

    import sksetsens

    for module in pkgutil.walk_packages(sksetsens.__path__, "sksetsens."):
        importlib.import_module(module.name)
    assert not OPTIONAL & {name.partition(".")[0] for name in sys.modules}

    from sksetsens import inspection, networks

    X = np.linspace(-1.0, 1.0, 20)[:, None]
    net = networks.DFCNNRegressor(
        module__hidden_widths=(3,), optimizer__weight_decay=0.1, max_epochs=20
    )
    model = sksetsens.SolutionSetEstimator(net, n_restarts=2, random_state=0)
    model.fit(X, X[:, 0])
    sksetsens.stability_report(model, model.perturb())
    model.sensitivity(model.perturb()).distance(model.retrain(model.perturb()))
    try:
        inspection.HessianSpectrumDisplay.from_estimator(model)
    except ImportError as error:
        sys.stdout.write(str(error))
'''


def test_nothing_but_a_plot_needs_an_extra():
    """In a process of its own, where no extra can be imported."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_SCRIPT), *OPTIONAL],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "from_estimator requires matplotlib" in done.stdout


def test_floors_are_the_oldest_versions_that_were_run():
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and line[0] != "#")
    for text in sum(EXTRAS.values(), PROJECT["dependencies"]):
        required = Requirement(text)
        assert str(required.specifier) == f">={pins[required.name]}", required.name
