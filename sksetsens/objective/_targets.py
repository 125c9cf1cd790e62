"""Targets in the shape in which a net's loss meets its outputs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetClassifier
from torch import Tensor

from .._compat import TorchDispatchMode
from ..exceptions import UnsupportedObjectiveError
from ._module_checks import check_one_tensor
from ._net_building import net_inputs
from ._trained_objective import eval_mode

__all__ = ["is_elementwise", "output_shape", "shape_targets", "takes_codes"]

# Of one output and one target each.
_ELEMENTWISE = (
    torch.nn.BCELoss,
    torch.nn.BCEWithLogitsLoss,
    torch.nn.HuberLoss,
    torch.nn.KLDivLoss,
    torch.nn.L1Loss,
    torch.nn.MSELoss,
    torch.nn.PoissonNLLLoss,
    torch.nn.SmoothL1Loss,
    torch.nn.SoftMarginLoss,
)


def output_shape(net: Any, X: NDArray[Any]) -> tuple[int, ...]:
    """Shape of the outputs of one row."""
    row = net_inputs(net, X[:1])
    try:
        with eval_mode(net.module_), torch.no_grad():
            outputs = net.infer(row)
    except Exception as error:
        layout = getattr(net, "_input_layout", None)
        rows, remedy = (
            f"of shape {X.shape[1:]}",
            "Set its number of features to that of X.",
        )
        if layout is not None:
            rows = f"of {layout}"
            remedy = (
                "The keys of X must be forward's arguments, and codes within range."
            )
        raise UnsupportedObjectiveError(
            f"The module {type(net.module_).__name__} cannot evaluate rows {rows}: "
            f"{type(error).__name__} {error}. {remedy}"
        ) from error
    if isinstance(outputs, tuple | list):  # As in skorch, the first one predicts.
        outputs = outputs[0]
    check_one_tensor(outputs)
    return tuple(outputs.shape[1:])


def takes_codes(net: Any, X: NDArray[Any], dtype: str) -> bool:
    """Whether the module takes rows in that dtype, and not as real numbers."""
    codes = torch.as_tensor(X[:1], device=net.device).to(getattr(torch, dtype))
    with eval_mode(net.module_), torch.no_grad():
        try:
            net.infer(net_inputs(net, X[:1]))
        except Exception:
            try:
                net.infer(codes)
            except IndexError:  # Codes that the net does not know are codes.
                return True
            except Exception:
                return False
            return True
    return False


def shape_targets(
    net: Any, X: NDArray[Any], y: NDArray[Any], *, is_column: bool = False
) -> NDArray[Any]:
    """Real-valued targets in the shape of the net's outputs.

    A column of outputs against a row of targets broadcasts to an n x n matrix in
    MSELoss without an error. Class numbers stay as they are; a loss of
    the user's own gets the targets as they were given, unless these pair rows with rows
    and targets in the outputs' shape do not.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised.
    X : ndarray of shape (n_samples, ...)
    y : ndarray of shape (n_samples, ...)
    is_column : bool, default=False
        Whether the user gave y as a column, which a loss of their own then sees.

    Raises
    ------
    UnsupportedObjectiveError
        If the module fails on a row, or its outputs hold another number of values
        per row than the targets, or fewer than there are classes.
    """
    shape = output_shape(net, X)
    of_classes = isinstance(net, NeuralNetClassifier)
    of_classes |= isinstance(
        net.criterion_, torch.nn.CrossEntropyLoss | torch.nn.NLLLoss
    )
    if not np.issubdtype(y.dtype, np.floating) and of_classes:
        if isinstance(net, NeuralNetClassifier) and shape and y.max() >= shape[0]:
            raise UnsupportedObjectiveError(
                f"The module has {shape[0]} outputs per row and y holds {y.max() + 1} "
                "classes. Set the module's number of outputs to the number of classes."
            )
        return y
    same_size = int(np.prod(shape)) == int(np.prod(y.shape[1:]))
    if is_elementwise(net):
        if same_size:
            return y.reshape(len(y), *shape)
        raise UnsupportedObjectiveError(
            f"The module returns outputs of shape {tuple(shape)} per row and the "
            f"targets have shape {y.shape[1:]}: the criterion would broadcast them "
            "silently. Set the module's number of outputs to the number of targets."
        )
    given = y[:, None] if is_column and y.ndim == 1 else y
    if same_size and given.shape[1:] != shape and _pairs_rows(net, X, given):
        other = y.reshape(len(y), *shape)
        return given if _pairs_rows(net, X, other) else other
    return given


def _pairs_rows(net: Any, X: NDArray[Any], y: NDArray[Any]) -> bool:
    """Whether a loss fails, or pairs rows with rows by silent broadcasting."""
    n = next(n for n in (7, 11, 13, 17) if n not in (*X.shape[1:], *y.shape[1:]))
    rows = np.resize(np.arange(len(y)), n)
    # What is tried here is told of where it is what trains.
    with eval_mode(net.module_), warnings.catch_warnings(), _ShapesSeen(n) as seen:
        warnings.simplefilter("ignore")
        try:
            x = net_inputs(net, X[rows])
            with torch.random.fork_rng(()):
                outputs = net.infer(x)
            seen.pairs = False
            targets = torch.as_tensor(y[rows], device=net.device)
            net.get_loss(outputs, targets, X=x, training=True)
        except Exception:
            return True
    return seen.pairs


def is_elementwise(net: Any) -> bool:
    """Whether outputs and targets meet number by number, in torch's own loss."""
    own = type(net).get_loss.__module__.startswith(("skorch.", "sksetsens."))
    return own and isinstance(net.criterion_, _ELEMENTWISE)


class _ShapesSeen(TorchDispatchMode):
    """Whether rows are paired with rows inside by broadcasting that nobody asked for.

    A column beside a vector; pairs that are asked for are of a column and a row.

    Parameters
    ----------
    n : int
        Number of rows.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self._n, self.pairs = n, False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if not (isinstance(found, Tensor) and self._is_paired(found)):
            return found
        given = [part for part in args if isinstance(part, Tensor)]
        if any(map(self._is_paired, given)):
            return found
        shorter = len(given) > 1 and min(t.ndim for t in given) < found.ndim
        self.pairs |= shorter or "expand" in str(func)
        return found

    def _is_paired(self, tensor: Tensor) -> bool:
        return tuple(tensor.shape).count(self._n) > 1
