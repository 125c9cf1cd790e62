"""Whatever is passed, a user reads an error about what they passed.

Hypothesis draws a parameter of a public function and a value without meaning there.
The answer must be an error of a documented kind, with a message, that does not come
from deep inside torch or NumPy.
"""

import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from sklearn.exceptions import NotFittedError

from sksetsens import (
    SolutionSet,
    SolutionSetEstimator,
    datasets,
    follow_path,
    linear_range,
    lipschitz_inclusion,
    lipschitz_modulus,
    metrics,
    mordukhovich_criterion,
    networks,
    sensitivity,
    sensitivity_curve,
    set_convergence,
    stability_report,
    target_perturbation,
)
from sksetsens.inspection import (
    HessianSpectrumDisplay,
    LipschitzModulusDisplay,
    SensitivityCurveDisplay,
    SolutionSetDisplay,
)

torch.set_num_threads(1)

N, D = 12, 2
_RNG = np.random.RandomState(0)
X = _RNG.standard_normal((N, D))
Y = X[:, 0] + 0.1 * _RNG.standard_normal(N)
LABELS = np.where(X[:, 0] > 0, "yes", "no")
_NET = {
    "module__hidden_widths": (),
    "module__bias": True,
    "module__train_output": True,
    "optimizer__weight_decay": 0.1,
    "max_epochs": 1,
}


def _unfitted(**params):
    net = networks.DFCNNRegressor(**_NET)
    return SolutionSetEstimator(net, **{"n_restarts": 1, "random_state": 0, **params})


def _fitted(net, y):
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    return model.set_params(perturbation_size=1e-3).fit(X, y)


REGRESSOR = _fitted(networks.DFCNNRegressor(**_NET), Y)
CLASSIFIER = _fitted(networks.DFCNNClassifier(**_NET), LABELS)
MOVED = REGRESSOR.perturb()
SET = REGRESSOR.solution_set_
PREDICTED = REGRESSOR.sensitivity(MOVED)
P = SET.weights.shape[1]


# --- Values without meaning ----------------------------------------------------------


class Strange:
    """An object of no use to anybody."""

    def __repr__(self):
        return "<strange>"


def _spoilt(value):
    spoilt = X.copy()
    spoilt[1, 0] = value
    return spoilt


_STRANGE = st.sampled_from([Strange(), 1j, b"bytes", {}, {"a": 1}, object, print])
_TEXT = st.text("xyz-", min_size=1, max_size=6)
_NEGATIVE = st.floats(max_value=-1e-3, allow_nan=False)
_NO_NUMBER = st.one_of(_STRANGE, _TEXT, st.sampled_from([[], [1.0], np.nan]))

BAD = {
    "rows": st.one_of(
        _STRANGE,
        _TEXT,
        st.sampled_from(
            [
                None,
                3.0,
                [],
                [[]],
                X[0],
                X[:0],
                [[1.0, 2.0], [3.0]],
                X.astype(complex),
                np.char.add(X.astype(str), "x"),
                np.full((N, D), Strange(), dtype=object),
                torch.ones,
            ]
        ),
        st.sampled_from([np.nan, np.inf, -np.inf]).map(_spoilt),
        st.integers(3, 6).map(lambda d: np.ones((N, d))),
    ),
    "first rows": st.one_of(
        _STRANGE,
        _TEXT,
        st.sampled_from([None, 3.0, [], X[0], X[:0], X.astype(complex)]),
        st.sampled_from([np.nan, np.inf, -np.inf]).map(_spoilt),
    ),
    "labels": st.one_of(
        _STRANGE,
        _TEXT,
        st.sampled_from([3.0, [], LABELS[:-1], np.full(N, np.nan), np.ones((N, 2))]),
    ),
    "other rows": st.integers(1, 30)
    .filter(lambda n: n != N)
    .map(lambda n: np.ones((n, D))),
    "targets": st.one_of(
        _STRANGE,
        _TEXT,
        st.sampled_from(
            [
                3.0,
                [],
                Y[:-1],
                np.full(N, np.nan),
                np.r_[np.inf, Y[1:]],
                Y.astype(complex),
                np.array(["a"] * N),
                np.array([Strange()] * N),
                [[1.0], [2.0, 3.0]],
                np.ones((N, 2, 2)),
            ]
        ),
    ),
    "count": st.one_of(
        _NO_NUMBER,
        st.integers(max_value=-1),
        st.sampled_from([0.5, np.inf, None, 1.5, "1", (1,)]),
    ),
    "positive": st.one_of(
        _NO_NUMBER, _NEGATIVE, st.sampled_from([0, 0.0, None, "1", np.inf, -np.inf])
    ),
    "at least 0": st.one_of(
        _NO_NUMBER, _NEGATIVE, st.sampled_from([None, "1", -np.inf])
    ),
    "choice": st.one_of(_STRANGE, _TEXT, st.sampled_from([3, None, [], ("a",), 0.5])),
    "estimator": st.one_of(
        _STRANGE,
        _TEXT,
        st.sampled_from([None, 3, X, SolutionSetEstimator, _unfitted()]),
    ),
    "net": st.one_of(
        _STRANGE,
        _TEXT,
        st.sampled_from(
            [
                None,
                3,
                networks.DFCNN(),
                networks.DFCNNRegressor,
                networks.DFCNNRegressor(networks.DFCNN()),
                networks.DFCNNRegressor(module__hidden_widths=("a",)),
                networks.DFCNNRegressor(module__hidden_widths=3.5),
                networks.DFCNNRegressor(module__activation="step"),
                networks.DFCNNRegressor(module__unknown=1),
                networks.DFCNNRegressor(module=Strange),
                networks.DFCNNRegressor(optimizer=torch.optim.AdamW),
                networks.DFCNNRegressor(optimizer__weight_decay=-1.0),
                networks.DFCNNRegressor(criterion=torch.nn.HingeEmbeddingLoss),
                networks.DFCNNRegressor(batch_size="all"),
                networks.DFCNNRegressor(max_epochs="many"),
                networks.DFCNNRegressor(lr="fast"),
                networks.DFCNNRegressor(device="abacus"),
            ]
        ),
    ),
    "points": st.one_of(
        _STRANGE,
        _TEXT,
        st.sampled_from(
            [
                None,
                [],
                np.zeros((2, P + 1)),
                np.full((1, P), np.nan),
                np.zeros((1, 1, P)),
                [[1.0], [2.0, 3.0]],
                np.zeros((1, P), complex),
                scipy.sparse.csr_array(np.ones((1, P))),
            ]
        ),
    ),
    "positions": st.one_of(
        _STRANGE,
        _TEXT,
        st.sampled_from([[], [99], [-99], [0.5], 1.5, [True], [[0, 1]], np.nan]),
    ),
    "sizes": st.one_of(
        _STRANGE, _TEXT, st.sampled_from([None, [], 3.0, [-1.0], [np.nan], [[1.0]]])
    ),
    "path": st.sampled_from(["missing", "folder", "garbage", "pickle", 3.5, None, {}]),
}


# --- Parameters of public functions --------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """A parameter that gets a bad value."""

    name: str
    call: Any
    kind: str

    def __repr__(self):
        return self.name


def _slots():
    def slot(name, kind, call):
        return Slot(name, call, kind)

    yield slot("fit X", "first rows", lambda v: _unfitted().fit(v, Y))
    yield slot("fit other X", "other rows", lambda v: _unfitted().fit(v, Y))
    yield slot("fit y", "targets", lambda v: _unfitted().fit(X, v))
    yield slot("net", "net", lambda v: SolutionSetEstimator(v, n_restarts=1).fit(X, Y))
    for name, kind in {
        "n_restarts": "count",
        "tol": "at least 0",
        "curvature": "choice",
        "solver": "choice",
        "rcond": "negative",
        "solver_tol": "positive",
        "solver_max_iter": "count",
        "working_memory": "negative",
        "perturbation_size": "at least 0",
        "perturbed_fraction": "positive",
        "restart_backend": "choice",
        "random_state": "negative",
        "n_jobs": "no number",
        "memory": "no path",
    }.items():
        yield slot(name, kind, lambda v, n=name: _unfitted(**{n: v}).fit(X, Y))
    for model, short in ((REGRESSOR, "regressor"), (CLASSIFIER, "classifier")):
        y = Y if model is REGRESSOR else LABELS
        targets = "targets" if model is REGRESSOR else "labels"
        for method in ("sensitivity", "retrain", "stability_report"):
            ask = getattr(model, method)
            yield slot(f"{short}.{method} X", "rows", ask)
            yield slot(f"{short}.{method} other X", "other rows", ask)
            yield slot(f"{short}.{method} y", targets, lambda v, a=ask: a(MOVED, v))
        yield slot(f"{short}.predict", "rows", model.predict)
        yield slot(f"{short}.score X", "rows", lambda v, m=model, y=y: m.score(v, y))
        yield slot(f"{short}.score y", targets, lambda v, m=model: m.score(X, v))
        yield slot(f"{short}.set.predict", "rows", model.solution_set_.predict)
    yield slot("predict_proba", "rows", CLASSIFIER.predict_proba)
    yield slot(
        "n_corrections", "count", lambda v: REGRESSOR.sensitivity(X, n_corrections=v)
    )
    yield slot("perturb X", "rows or y", lambda v: REGRESSOR.perturb(v, Y))
    yield slot("perturb y", "targets", lambda v: REGRESSOR.perturb(X, v))
    yield slot("score_of", "rows", lambda v: REGRESSOR.score_of(SET, v, Y))
    yield slot(
        "score_of scoring",
        "text",
        lambda v: REGRESSOR.score_of(SET, X, Y, scoring=v),
    )

    for function in (
        sensitivity,
        stability_report,
        linear_range,
        follow_path,
        set_convergence,
    ):
        name = function.__name__
        yield slot(f"{name} estimator", "estimator", lambda v, f=function: f(v, MOVED))
    for function in (sensitivity, linear_range, follow_path):
        name = function.__name__
        yield slot(f"{name} X", "rows", lambda v, f=function: f(REGRESSOR, v))
        yield slot(f"{name} y", "targets", lambda v, f=function: f(REGRESSOR, MOVED, v))
    for name, call in {
        "stability_report tol": lambda v: stability_report(REGRESSOR, MOVED, tol=v),
        "linear_range tol": lambda v: linear_range(REGRESSOR, MOVED, tol=v),
        "follow_path tol": lambda v: follow_path(REGRESSOR, MOVED, tol=v),
        "follow_path min_step": lambda v: follow_path(REGRESSOR, MOVED, min_step=v),
        "inclusion radius": lambda v: lipschitz_inclusion(REGRESSOR, MOVED, radius=v),
        "sample radius": lambda v: SET.sample(2, v),
        "excess_bounds": lambda v: metrics.excess_bounds(SET, SET, radius=v),
    }.items():
        yield slot(name, "positive", call)
    yield slot("set_convergence", "sequence", lambda v: set_convergence(REGRESSOR, v))
    yield slot(
        "convergence radius",
        "negative",
        lambda v: set_convergence(REGRESSOR, [MOVED, X], radius=v),
    )
    yield slot(
        "max_steps", "count", lambda v: follow_path(REGRESSOR, MOVED, max_steps=v)
    )
    for name in ("level", "method"):
        yield slot(
            f"lipschitz_modulus {name}",
            "choice",
            lambda v, n=name: lipschitz_modulus(REGRESSOR, **{n: v}),
        )
    yield slot("lipschitz_modulus estimator", "estimator", lipschitz_modulus)
    yield slot(
        "lipschitz_modulus groups",
        "no labels",
        lambda v: lipschitz_modulus(REGRESSOR, level="group", groups=v),
    )
    yield slot(
        "lipschitz_modulus n_directions",
        "count",
        lambda v: lipschitz_modulus(REGRESSOR, method="empirical", n_directions=v),
    )
    yield slot(
        "lipschitz_modulus size",
        "negative",
        lambda v: lipschitz_modulus(REGRESSOR, method="empirical", size=v),
    )
    yield slot("criterion", "estimator", mordukhovich_criterion)
    for name in ("rows", "features"):
        yield slot(
            f"criterion {name}",
            "positions",
            lambda v, n=name: mordukhovich_criterion(REGRESSOR, **{n: v}),
        )
        yield slot(
            f"target {name}",
            "positions",
            lambda v, n=name: target_perturbation(
                REGRESSOR, SET.weights[0] + 1e-3, **{n: v}
            ),
        )
    yield slot("target weights", "points", lambda v: target_perturbation(REGRESSOR, v))
    yield slot(
        "target X",
        "rows",
        lambda v: target_perturbation(REGRESSOR, X=v, prediction_change=1e-3),
    )
    yield slot(
        "target change",
        "change",
        lambda v: target_perturbation(REGRESSOR, X=X[:1], prediction_change=v),
    )
    yield slot(
        "target solution",
        "no index",
        lambda v: target_perturbation(REGRESSOR, SET.weights[0] + 1e-3, solution=v),
    )

    yield slot("sample number", "count", lambda v: SET.sample(v, 1.0))
    yield slot("distance", "no points", SET.distance)
    yield slot("change X", "rows", PREDICTED.prediction_change)
    yield slot(
        "change radius", "negative", lambda v: PREDICTED.prediction_change(X, radius=v)
    )
    yield slot("distance_to_set points", "points", metrics_distance)
    yield slot(
        "distance_to_set C", "points", lambda v: metrics.distance_to_set(SET.weights, v)
    )
    yield slot("excess C", "points", lambda v: metrics.excess(v, SET))
    yield slot("hausdorff D", "points", lambda v: metrics.pompeiu_hausdorff(SET, v))
    yield slot(
        "excess radius", "negative", lambda v: metrics.excess(SET, SET, radius=v)
    )
    for name in metrics.__all__:
        if name.startswith(("neg_", "perturbed")):
            scorer = getattr(metrics, name)
            yield slot(name, "estimator", lambda v, s=scorer: s(v, X, Y))
    yield slot("perturbed_score X", "rows", lambda v: _perturbed_score(v, Y))
    yield slot("perturbed_score y", "targets", lambda v: _perturbed_score(X, v))
    for name, kind in {
        "n_corrections": "count",
        "perturbation_size": "negative",
        "perturbed_fraction": "negative",
        "perturbation": "text",
        "scoring": "text",
        "retrain": "choice but None",
    }.items():
        yield slot(
            f"scorer {name}",
            kind,
            lambda v, n=name: metrics.make_sensitivity_scorer(**{n: v}),
        )
    yield slot(
        "curve sizes",
        "sizes",
        lambda v: sensitivity_curve(REGRESSOR, X, Y, param_range=v, cv="prefit"),
    )
    yield slot(
        "curve estimator",
        "estimator but unfitted",
        lambda v: sensitivity_curve(v, X, Y, param_range=[0.1]),
    )
    for name, kind in {
        "cv": "text",
        "scoring": "text",
        "n_corrections": "count",
    }.items():
        yield slot(
            f"curve {name}",
            kind,
            lambda v, n=name: sensitivity_curve(
                REGRESSOR, X, Y, param_range=[0.1], **{n: v}
            ),
        )

    for maker in (
        datasets.make_dead_feature,
        datasets.make_isolated_minimum,
        datasets.make_underdetermined_linear,
    ):
        for name, kind in {
            "n_samples": "count",
            "n_features": "count",
            "perturbation_size": "at least 0",
            "random_state": "negative",
        }.items():
            yield slot(
                f"{maker.__name__} {name}", kind, lambda v, m=maker, n=name: m(**{n: v})
            )
    yield slot("load_cifar10", "path", datasets.load_cifar10)
    yield slot("load_digits_images", "count but None", datasets.load_digits_images)
    yield slot("DFCNN widths", "widths", lambda v: networks.DFCNN(hidden_widths=v))
    yield slot("DFCNN sizes", "count", lambda v: networks.DFCNN(n_features=v))
    yield slot("ResNet depth", "count", lambda v: networks.ResNet(depth=v))
    yield slot("SolutionSet.load", "path", SolutionSet.load)
    for display in (
        HessianSpectrumDisplay,
        LipschitzModulusDisplay,
        SensitivityCurveDisplay,
        SolutionSetDisplay,
    ):
        arguments = {"X": X, "y": Y, "param_range": [0.1], "cv": "prefit"}
        if display is not SensitivityCurveDisplay:
            arguments = {}
        yield slot(
            f"{display.__name__}",
            "estimator",
            lambda v, d=display, a=arguments: d.from_estimator(v, **a),
        )
    yield slot(
        "display level",
        "choice",
        lambda v: LipschitzModulusDisplay.from_estimator(REGRESSOR, level=v),
    )
    yield slot(
        "display solution",
        "no index",
        lambda v: SolutionSetDisplay.from_estimator(REGRESSOR, solution=v),
    )


def _is_points(value):
    is_float = isinstance(value, np.ndarray) and value.dtype == float
    return is_float and value.shape[-1] == P


def metrics_distance(points):
    return metrics.distance_to_set(points, SET)


def _perturbed_score(X_new, y_new):
    return metrics.perturbed_score(REGRESSOR, X_new, y_new)


BAD |= {
    "negative": st.one_of(
        _STRANGE, _TEXT, _NEGATIVE, st.sampled_from([[], [1.0], np.nan])
    ),
    # The distance of NaN is NaN: predicted sets have them where they are empty. Any
    # number of axes will do, as of samples.
    "no points": BAD["points"].filter(lambda v: not _is_points(v)),
    "no number": st.one_of(_STRANGE, _TEXT, st.sampled_from([1.5, [], np.nan])),
    "no path": st.sampled_from([3, 1.5, [], {}, Strange(), 1j]),
    "text": _TEXT,
    "rows or y": BAD["rows"].filter(lambda v: v is not None),
    "choice but None": BAD["choice"].filter(lambda v: v is not None),
    "count but None": BAD["count"].filter(lambda v: v is not None),
    "estimator but unfitted": BAD["estimator"].filter(
        lambda v: not isinstance(v, SolutionSetEstimator)
    ),
    "sequence": st.one_of(_STRANGE, st.sampled_from([[], [X[:3]], None, 3.0, ["x"]])),
    "no labels": st.one_of(
        _STRANGE, _TEXT, st.sampled_from([3, [], np.zeros(N + 1), np.zeros((N, 2))])
    ),
    "no index": st.one_of(_STRANGE, _TEXT, st.sampled_from([99, -99, 0.5, [], [0]])),
    "change": st.one_of(
        _STRANGE,
        _TEXT,
        st.sampled_from([[], np.nan, [np.inf], np.ones(7), np.ones((2, 2)), 1j]),
    ),
    "widths": st.one_of(
        _STRANGE, _TEXT, st.sampled_from([3, None, (0,), (-1,), (1.5,), ("4",), 2.0])
    ),
}
SLOTS = list(_slots())
_CASES = st.sampled_from(SLOTS).flatmap(
    lambda slot: st.tuples(st.just(slot), BAD[slot.kind])
)

# Those of sksetsens.exceptions are ValueErrors.
DOCUMENTED = (ValueError, TypeError, NotFittedError)


def _placed(value, tmp_path: Path):
    """Paths are of this test's folder."""
    if value == "missing":
        return tmp_path / "nowhere"
    if value == "folder":
        return tmp_path
    if value in ("garbage", "pickle"):
        path = tmp_path / value
        path.write_bytes(b"\x80\x04K\x01." if value == "pickle" else b"PK\x03\x04 no")
        return path
    return value


_SETTINGS = {
    "derandomize": True,
    "database": None,
    "suppress_health_check": [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
}


def _check(slot, value, tmp_path):
    documented = DOCUMENTED
    if slot.kind == "path":
        value, documented = _placed(value, tmp_path), (*DOCUMENTED, OSError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            slot.call(value)
    error = caught.value
    where = traceback.extract_tb(error.__traceback__)[-1]
    told = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    assert isinstance(error, documented), told
    assert str(error).strip(), told
    if not isinstance(error, OSError):  # NumPy opens files
        assert not {"torch", "numpy"} & set(Path(where.filename).parts), told


@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot.name)
def test_every_parameter_tells_of_bad_input(slot, tmp_path):
    @given(value=BAD[slot.kind])
    @settings(max_examples=3, **_SETTINGS)
    def check(value):
        _check(slot, value, tmp_path)

    check()


@given(case=_CASES)
@settings(max_examples=200, **_SETTINGS)
def test_bad_input_is_told(case, tmp_path):
    _check(*case, tmp_path)
