"""Moduli of a fitted estimator by level and by method: what asks for which."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._validation import (
    check_choice,
    check_count,
    check_positive,
    unwrap,
    user_stacklevel,
)
from ..exceptions import IllPosedWarning
from ._closed_form import check_closed_form, closed_form_moduli, interpolates
from ._empirical import EmpiricalModuli, empirical_moduli, unknown_moduli
from ._parts import PartModuli

__all__ = ["lipschitz_modulus"]

Array = NDArray[np.float64]

_LEVELS = ("dataset", "sample", "feature", "layer", "group", "target")
# Levels that a method knows, with the reason why not the others.
_METHODS = {
    "coderivative": (_LEVELS, ""),
    "closed_form": (
        ("dataset", "sample", "layer"),
        "Theorem 2 speaks of rows and layers",
    ),
    "empirical": (
        ("dataset", "sample", "feature", "group"),
        "retraining moves all weights, on perturbed inputs",
    ),
}
# One value for all data: reported as the largest over the solutions.
_WHOLE = ("dataset", "target")


def lipschitz_modulus(
    estimator: Any,
    *,
    level: str = "dataset",
    method: str = "coderivative",
    groups: ArrayLike | None = None,
    return_direction: bool = False,
    return_evidence: bool = False,
    n_directions: int = 4,
    size: float | None = None,
    random_state: Any = 0,
) -> Any:
    """Lipschitz modulus of the solution set, as a whole or by parts of data or net.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    level : {"dataset", "sample", "feature", "layer", "group", "target"}, \
            default="dataset"
        What may move: all rows, one row, one feature in all rows, one group of rows;
        all rows while only one layer's weights (one parameter tensor) answer; or
        the real-valued targets of a regressor instead of X.

    method : {"coderivative", "closed_form", "empirical"}, default="coderivative"
        "coderivative" is exact, ``|H^+ B|_2``. "closed_form" is the paper's Theorem 2,
        ``|grad_x f| / |grad_w f|`` of a row, for a DFCNN at interpolation: a lower
        bound of the exact modulus at every level ("sample": all layers answer;
        "layer" and "dataset": the largest over the rows). "empirical" retrains on
        perturbed data, in the worst-case and in random directions: a lower bound up to
        terms of second order, at ``n_directions + 1`` warm retrainings per part and
        solution.

    groups : array-like of shape (n_samples,), default=None
        Label of each training row, for ``level="group"``.

    return_direction : bool, default=False
        Whether to return the perturbations that attain the moduli too. Not for
        "closed_form".

    return_evidence : bool, default=False
        Whether to return, last, what was found at each solution, one object each: a
        `PartModuli`, or for "empirical" an `EmpiricalModuli`, which tells the sizes,
        the second-order terms and the retrainings that failed. Not for "closed_form".

    n_directions : int, default=4
        Random directions per part, "empirical" only.

    size : float, default=None
        Frobenius norm of the perturbations, "empirical" only; None for sizes at which
        the first order errs by 1 per cent.

    random_state : int, RandomState instance or None, default=0
        Draws the random directions, "empirical" only.

    Returns
    -------
    modulus : float, or ndarray of shape (n_solutions, n_parts)
        Euclidean movement of the weights per Frobenius norm of the perturbation. A
        float, the largest over the solutions, for "dataset" and "target". Groups are
        in the order of their sorted labels. inf where the Lipschitz-like property
        fails or cannot be certified; NaN where a method has no answer (a solution that
        does not interpolate, no retraining that became stationary).

    direction : ndarray
        Only with ``return_direction``; perturbations of Frobenius norm 1, NaN where
        there is none. "dataset", "target": of the shape of X or y, at the solution with
        the largest modulus. "sample" and "group": ``(n_solutions, *X.shape)``, each
        row or group moving alone. "feature": (n_solutions, n_features, n_samples), its
        entries in each row. "layer": ``(n_solutions, n_layers, *X.shape)``.

    evidence : list of PartModuli or of EmpiricalModuli
        Only with ``return_evidence``.

    Raises
    ------
    ValueError
        If a level or method does not exist or does not apply, or a parameter has no
        meaning.

    See Also
    --------
    mordukhovich_criterion : Whether it is finite, and which entry of the data is not.
    sksetsens.inspection.LipschitzModulusDisplay : Drawn by row and feature.

    Notes
    -----
    What inf means, and when not to trust an answer: :doc:`/trust`. Rows, features and
    bounds: :doc:`/guide`.

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Section 3 and Theorems 2 and 3.

    Examples
    --------
    The paper's toy network, whose modulus at w = (1, 2) is 2 / 5:

    >>> from skorch import NeuralNetRegressor
    >>> from sksetsens import SolutionSetEstimator, lipschitz_modulus
    >>> from sksetsens.datasets import make_toy_network
    >>> toy = make_toy_network()
    >>> net = NeuralNetRegressor(
    ...     toy.module, module__start=(1.0, 2.0), train_split=None, max_epochs=1
    ... )
    >>> model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    >>> model = model.fit(toy.X, toy.y)
    >>> round(lipschitz_modulus(model), 6)
    0.4
    >>> lipschitz_modulus(model, level="sample").round(4)
    array([[0.1789, 0.3578]])
    """
    final, _ = unwrap(estimator, caller="lipschitz_modulus")
    check_is_fitted(final)
    check_choice("lipschitz_modulus", "level", level, _LEVELS)
    check_choice("lipschitz_modulus", "method", method, tuple(_METHODS))
    known, reason = _METHODS[method]
    if level not in known:
        raise ValueError(
            f"The 'level' parameter of lipschitz_modulus must be one of {known} with "
            f"method={method!r}: {reason}. Got {level!r} instead."
        )
    labels = _check_groups(level, groups, len(final.inputs_))
    if method == "closed_form":
        return _closed_form(final, level, return_direction or return_evidence)
    if level == "target" and not final.solution_set_.objectives[0].has_real_targets:
        raise ValueError(
            "The 'level' parameter of lipschitz_modulus must not be 'target' for a "
            "classifier: labels have no small change. Got 'target' instead."
        )
    if method == "empirical":
        check_count("lipschitz_modulus", "n_directions", n_directions, low=0)
        if size is not None:
            check_positive("lipschitz_modulus", "size", size)
        rng = check_random_state(random_state)
        moduli = _empirical(final, level, labels, n_directions, size, rng)
    else:
        moduli = final._moduli.by_part(level, labels)
    values, directions = _answer(final, level, moduli)
    answer = [values]
    answer += [directions] if return_direction else []
    answer += [moduli] if return_evidence else []
    return answer[0] if len(answer) == 1 else tuple(answer)


def _answer(final: Any, level: str, moduli: list[Any]) -> tuple[Any, Array]:
    """Values and directions over the solutions; of the worst one for a whole."""
    values = np.stack([m.values for m in moduli])
    directions = [np.array(m.directions) for m in moduli]
    if level not in _WHOLE:
        return values, np.stack(directions)
    known = np.where(np.isnan(values[:, 0]), -np.inf, values[:, 0])
    worst = int(known.argmax())
    shape = final.y_train_.shape if level == "target" else final.inputs_.shape
    return float(values[worst, 0]), directions[worst].reshape(shape)


def _closed_form(final: Any, level: str, return_more: bool) -> Any:
    check_closed_form(final.solution_set_.objectives[0])
    if return_more:
        raise ValueError(
            "The 'return_direction' and 'return_evidence' parameters of "
            "lipschitz_modulus must be False with method='closed_form', which has "
            "neither. Got True instead."
        )
    derivatives, solutions = final.graphical_derivatives_, final.solution_set_
    exact = np.array([interpolates(gd) for gd in derivatives])
    known = exact & solutions.trustworthy
    if not known.all():
        warnings.warn(
            "The closed form needs interpolation at a trustworthy solution: "
            f"{np.sum(~exact)} of {len(exact)} solutions miss their targets, "
            f"{np.sum(~solutions.trustworthy)} are not trustworthy; their moduli are "
            "NaN. Train longer, or use method='coderivative'.",
            IllPosedWarning,
            stacklevel=user_stacklevel(),
        )
    tables = [closed_form_moduli(gd, by_layer=level == "layer") for gd in derivatives]
    values = np.stack(tables)
    values[~known] = np.nan
    if level == "sample":
        return values
    largest = values.max(axis=1)
    if level == "layer":
        return largest
    return float(largest[known].max()) if known.any() else np.nan


def _empirical(
    final: Any,
    level: str,
    labels: NDArray[Any] | None,
    n_directions: int,
    size: float | None,
    rng: np.random.RandomState,
) -> list[EmpiricalModuli]:
    shape = final.inputs_.shape
    masks = [] if labels is None else [labels == g for g in np.unique(labels)]

    def embed(part: int, direction: Array) -> Array:
        """What a part's direction is as a perturbation of X."""
        full = np.zeros(shape)
        if level == "sample":
            full[part] = direction
        elif level == "feature":
            full.reshape(shape[0], -1)[:, part] = direction
        elif level == "group":
            full[masks[part]] = direction
        else:
            full = direction
        return full

    found = []
    exact: list[PartModuli] = final._moduli.by_part(level, labels)
    triples = zip(
        final.graphical_derivatives_,
        exact,
        final.solution_set_.trustworthy,
        strict=True,
    )
    for gd, parts, trusted in triples:
        worst = list(parts.directions)
        if level == "group":
            worst = [parts.directions[mask] for mask in masks]
        moduli = unknown_moduli(worst)
        if trusted:
            moduli = empirical_moduli(
                gd,
                worst,
                embed,
                n_directions=n_directions,
                size=size,
                tol=final.tol,
                rng=rng,
            )
        found.append(_assembled(moduli, shape, masks) if masks else moduli)
    return found


def _assembled(
    moduli: EmpiricalModuli, shape: tuple[int, ...], masks: list[NDArray[np.bool_]]
) -> EmpiricalModuli:
    """The groups' directions in one array of the shape of X."""
    full = np.full(shape, np.nan)
    for mask, direction in zip(masks, moduli.directions, strict=True):
        full[mask] = direction
    return replace(moduli, directions=list(full))


def _check_groups(
    level: str, groups: ArrayLike | None, n_samples: int
) -> NDArray[Any] | None:
    if (groups is None) != (level != "group"):
        raise ValueError(
            "The 'groups' parameter of lipschitz_modulus must be given with "
            f"level='group', and only then. Got level={level!r} and "
            f"groups={groups!r} instead."
        )
    if groups is None:
        return None
    labels = np.asarray(groups)
    if labels.shape != (n_samples,):
        raise ValueError(
            "The 'groups' parameter of lipschitz_modulus must hold one label per "
            f"training row, {n_samples}. Got an array of shape {labels.shape} instead."
        )
    try:
        np.unique(labels)
    except TypeError as error:
        raise ValueError(
            "The 'groups' parameter of lipschitz_modulus must hold labels of one type, "
            f"which can be sorted. Got {labels[:5]!r}... instead."
        ) from error
    return labels
