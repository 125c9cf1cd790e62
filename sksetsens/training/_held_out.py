"""Rows that a net's own split holds out: they stop its training, and take no part."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import EpochScoring

from .._validation import user_stacklevel
from ..exceptions import UnsupportedObjectiveError
from ..objective import isolated

__all__ = ["FixedSplit", "fixed_split", "rows_of_split", "trained_rows_only"]

Rows = NDArray[np.int64]


class FixedSplit:
    """skorch's ``train_split`` that holds out the same rows of whatever data.

    Parameters
    ----------
    train_rows, held_out : ndarray of int
    """

    def __init__(self, train_rows: Rows, held_out: Rows) -> None:
        self.train_rows, self.held_out = train_rows, held_out

    def __call__(self, dataset: Any, y: Any = None, **_: Any) -> tuple[Any, Any]:
        """Training and validation data."""
        subset: Any = torch.utils.data.Subset
        return subset(dataset, self.train_rows), subset(dataset, self.held_out)


def fixed_split(
    estimator: Any, trial: Any, X: Any, y: Any, *, always: bool = False
) -> Any:
    """What ``train_split`` the trainings have: None, or one that never changes.

    A split that is the default of the net's class, which nothing reads, is overridden:
    all rows then make the objective.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        As the user gave it.
    trial : skorch.NeuralNet
        Initialised, without a split.
    X, y : array-like
        In the net's dtype.
    always : bool, default=False
        Whether to keep a default split, as a net that is trained already has.

    Raises
    ------
    ValueError
        If the split is random and unseeded.
    UnsupportedObjectiveError
        If its training data is no part of X.

    Warns
    -----
    UserWarning
        If a split is overridden.
    """
    split = estimator.train_split
    if not split:
        return None
    unread = _is_default(estimator) and not _reads_validation(estimator)
    if unread and not always:
        warnings.warn(
            f"The net's train_split={split!r} would hold rows out of the training, and "
            "no callback reads their score; it is overridden by None, so that the "
            "solution set belongs to all rows of X. Pass train_split=None to the net "
            "to silence this, or another split (of other folds, say) to keep it.",
            UserWarning,
            stacklevel=user_stacklevel(),
        )
        return None
    parts = [_parts(trial, split, X, y, seed) for seed in (0, 1)]
    (train, held_out), (again, _) = parts
    if not np.array_equal(train, again):
        raise ValueError(
            "The 'train_split' of the net must hold out the same rows each time. Got "
            f"{split!r}, which draws others: give it a random_state, for example "
            "ValidSplit(0.2, random_state=0), or pass train_split=None."
        )
    if held_out is None:  # Validated on data from elsewhere.
        return split
    return FixedSplit(train, held_out)


def rows_of_split(split: Any, n_samples: int) -> Rows:
    """Positions of the rows that are trained on."""
    if isinstance(split, FixedSplit):
        return np.sort(split.train_rows)
    return np.arange(n_samples)


def trained_rows_only(
    sample_weight: NDArray[Any] | None, split: Any, n_samples: int
) -> NDArray[Any] | None:
    """Weights of the rows, 0 for those held out; None where all are 1."""
    if not isinstance(split, FixedSplit):
        return sample_weight
    found = np.zeros(n_samples)
    rows = split.train_rows
    found[rows] = 1.0 if sample_weight is None else sample_weight[rows]
    return found


def _parts(
    trial: Any, split: Any, X: Any, y: Any, seed: int
) -> tuple[Rows, Rows | None]:
    """Rows trained on, and held out; None where those are no rows of X."""
    dataset = trial.get_dataset(X, y)
    n_samples = len(X)
    with isolated(seed):
        try:
            train, held_out = split(dataset, y)
        except Exception as error:
            raise ValueError(
                f"The 'train_split' of the net must split X. Got {split!r}, which "
                f"raises {type(error).__name__}: {error}."
            ) from error
    if train is dataset:
        return np.arange(n_samples), None
    rows = getattr(train, "indices", None)
    if rows is None or getattr(train, "dataset", None) is not dataset:
        raise UnsupportedObjectiveError(
            f"The 'train_split' of the net, {split!r}, returns training data whose "
            "rows in X are not known. Use skorch.dataset.ValidSplit, or return "
            "torch.utils.data.Subset."
        )
    others = getattr(held_out, "indices", None)
    if others is None or getattr(held_out, "dataset", None) is not dataset:
        others = np.setdiff1d(np.arange(n_samples), rows)
    return np.asarray(rows, dtype=np.int64), np.asarray(others, dtype=np.int64)


def _is_default(net: Any) -> bool:
    """Whether the split is what the net's class has where nothing is said."""
    given = net.train_split
    for cls in type(net).__mro__:
        found = inspect.signature(cls).parameters.get("train_split")
        if found is not None:
            default = found.default
            return type(default) is type(given) and vars(default) == vars(given)
    return False


def _reads_validation(net: Any) -> bool:
    """Whether a callback looks at the score of held-out rows."""
    callbacks = net.callbacks
    if not isinstance(callbacks, list | tuple):
        return False
    for given in callbacks:
        callback = given[1] if isinstance(given, tuple) else given
        if isinstance(callback, type):
            callback = callback()
        if isinstance(callback, EpochScoring) and not callback.on_train:
            return True
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and "valid" in monitor:
            return True
    return False
