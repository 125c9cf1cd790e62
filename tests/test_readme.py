"""The README and the guide keep what they promise."""

import re
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_example_runs_as_written():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(code, names)
    gap = names["predicted"].distance(names["retrained"])
    assert (gap < names["predicted"].shift_norm).all()
    assert names["influence"].values.shape == (4, 50, 442)
    assert not names["without"].is_empty.any()
    first = names["model"].solution_set_.weights[0]
    np.testing.assert_allclose(names["mine"].solution_set_.weights[0], first, rtol=1e-6)


def test_guide_runs_as_written():
    guide = (ROOT / "docs" / "guide.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL):
        exec(code, names)
    assert "holds to" in repr(names["report"])
    assert names["loaded"].weights.shape == (2, 49)


def test_page_on_rows_runs_as_written():
    page = (ROOT / "docs" / "rows.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(code, names)
    assert names["truth"].values.shape[2] == len(names["unsure"]) > 0
    assert len(names["harmful"]) == len(names["matter"]) == 5
    assert (names["lower"] <= names["upper"]).all()


def test_page_on_nets_runs_as_written():
    page = (ROOT / "docs" / "nets.md").read_text()
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Early-stopped weights may be a saddle.
        for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
            exec(code, names)
    assert names["model"].solution_set_.weights.shape == (1, 49)


def test_commands_name_files_that_exist():
    commands = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    assert len(commands) == 3
    assert all("-c constraints.txt" in command for command in commands)
    for path in re.findall(r"(?:docs|examples)/[\w.]+", README):
        if path == "docs/_build":  # That command writes it.
            continue
        assert (ROOT / path).exists(), path
