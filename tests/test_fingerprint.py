"""Digests of values: equal for equal ones, in every process; refused where unknown."""

import dataclasses
import enum
import functools
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sksetsens.training._fingerprint import UnstableValueError, fingerprint


def scaled(x, factor=2.0):
    return factor * x


class Kind(enum.Enum):
    ONE = 1
    TWO = 2


@dataclasses.dataclass
class Settings:
    width: int = 3
    names: list = dataclasses.field(default_factory=list)


def adding(step):
    def add(x):
        return x + step

    return add


LOOP = [1]
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [None, True, 1, 1.5, float("nan"), 2j, "a", b"b", ...],
        lambda: {"a": (1, 2), "b": {"c", "d", "e"}},
        lambda: np.arange(6.0).reshape(2, 3),
        lambda: np.array(["a", None], dtype=object),
        lambda: np.float32(3.0),
        lambda: np.random.RandomState(0),
        lambda: torch.arange(3).to(torch.bfloat16),
        lambda: nn.Parameter(torch.ones(2)),
        lambda: nn.CrossEntropyLoss(weight=torch.ones(3)),
        lambda: torch.device("cpu"),
        lambda: torch.tanh,
        lambda: np.tanh,
        lambda: functools.partial(nn.functional.gelu, approximate="tanh"),
        lambda: adding(3),
        lambda: Kind.TWO,
        lambda: Settings(4, ["a"]),
        lambda: Path("folder"),
    ],
)
def test_equal_values_have_equal_digests(make):
    assert fingerprint(make()) == fingerprint(make())


def test_different_values_have_different_digests():
    values = [
        0, 0.0, False, None, "0", b"0", [0], (0,), {0}, {0: 0}, [], (), "", [[], []],
        np.zeros(1), np.zeros(1, "f"), np.zeros((1, 1)), np.zeros(2), np.float64(0.0),
        torch.zeros(1), torch.zeros(2), torch.zeros(1, dtype=torch.int32),
        nn.Parameter(torch.zeros(1)), nn.ReLU, nn.ReLU(), nn.ReLU(inplace=True),
        nn.Tanh(), torch.tanh, torch.relu, np.tanh, scaled, adding(1), adding(2),
        functools.partial(scaled, factor=3.0), functools.partial(scaled, factor=4.0),
        Kind.ONE, Kind.TWO, Settings(3), Settings(4), Settings, LOOP, [1, [1]],
        lambda x: x, lambda x: -x, ["ab", "c"], ["a", "bc"],
    ]  # fmt: skip
    digests = [fingerprint(value) for value in values]
    assert len(set(digests)) == len(values)


def test_layout_and_device_of_arrays_do_not_count():
    array = np.arange(6.0).reshape(2, 3)
    assert fingerprint(array) == fingerprint(np.asfortranarray(array))
    tensor = torch.arange(6.0).reshape(2, 3)
    assert fingerprint(tensor) == fingerprint(tensor.T.contiguous().T)


def _loaded(folder, name, source):
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    return module


SOURCE = """
    import torch
    import helpers_of_ours
    from torch import nn

    DEPTH = 2

    def block(width):
        return nn.Linear(width, width)

    class Base(nn.Module):
        gain = 1.0

        def scale(self, x):
            return self.gain * x

    class Net(Base):
        @property
        def depth(self):
            return DEPTH

        def forward(self, x):
            return self.scale(helpers_of_ours.nested.act(block(3)(x)))
"""
HELPERS = """
    class nested:
        @staticmethod
        def act(x):
            return x.tanh()
    unused = 1
"""


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("helpers_of_ours", "net_of_ours"):
        monkeypatch.setitem(sys.modules, name, None)

    def digest(source=SOURCE, helpers=HELPERS):
        _loaded(tmp_path, "helpers_of_ours", helpers)
        return fingerprint(_loaded(tmp_path, "net_of_ours", source).Net)

    return digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.scale(", "2.0 * self.scale("),
        ("gain = 1.0", "gain = 2.0"),
        ("self.gain * x", "self.gain + x"),
        ("nn.Linear(width, width)", "nn.Linear(width, width, bias=False)"),
        ("DEPTH = 2", "DEPTH = 3"),
        ("return DEPTH", "return DEPTH + 1"),
        ("class Net(Base)", "class Net(nn.Module)"),
        ("nn.Linear", "nn.LazyLinear"),
    ],
)
def test_an_edit_changes_the_digest(digest_of, old, new):
    assert digest_of() == digest_of()
    assert old in SOURCE
    assert digest_of(SOURCE.replace(old, new)) != digest_of()


def test_an_edit_in_another_file_counts_where_it_is_used(digest_of):
    assert digest_of(helpers=HELPERS.replace("tanh", "relu")) != digest_of()
    assert digest_of(helpers=HELPERS.replace("unused = 1", "unused = 2")) == digest_of()


def test_comments_and_lines_do_not_count(digest_of):
    assert digest_of("# one\n# two\n" + textwrap.dedent(SOURCE)) == digest_of()


def test_the_loaded_code_counts_not_the_file(tmp_path, digest_of):
    """A class keeps what it was loaded from, whatever happens to the file."""
    before = digest_of()
    cls = sys.modules["net_of_ours"].Net
    path = tmp_path / "net_of_ours.py"
    path.write_text(path.read_text().replace("gain = 1.0", "gain = 2.0"))
    assert fingerprint(cls) == before


def test_code_without_a_file_is_code():
    def made(body):
        space = {"__name__": "nowhere"}
        exec(f"def f(x):\n    return {body}", space)
        return space["f"]

    assert fingerprint(made("x + 1")) == fingerprint(made("x + 1"))
    assert fingerprint(made("x + 1")) != fingerprint(made("x + 2"))


def _late(x):
    import module_of_nobody  # type: ignore

    return module_of_nobody.f(x)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (threading.Lock(), "an object of _thread.lock"),
        ([{"deep": threading.Lock()}], "an object of _thread.lock"),
        (adding(threading.Lock()), "an object of _thread.lock"),
        (_late, "code that imports 'module_of_nobody' in a function"),
        ((i for i in range(3)), "an object of builtins.generator"),
    ],
)
def test_refused(value, told):
    with pytest.raises(UnstableValueError, match=told):
        fingerprint(value)


_SCRIPT = """
    import sys
    import torch
    from sksetsens.training._fingerprint import fingerprint

    class Net(torch.nn.Module):
        names = {"a", "b", "c", "d"}

        @torch.no_grad()
        def forward(self, x):
            return x if x.shape[0] in {1, 2, 3} else torch.tanh(x)

    value = [Net, torch.tanh, torch.ones(2), {"x", "y", "z"}, lambda x: x in {"q", "r"}]
    sys.stdout.write(fingerprint(value))
"""


def test_digests_hold_across_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(_SCRIPT))
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    found = {
        subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
            timeout=900,
        ).stdout
        for seed in "12"
    }
    assert len(found) == 1
    assert len(found.pop()) == 64
