r"""The paper's closed-form moduli of deep fully connected networks.

For the network ``f = a' x^(H)``, ``x^(h) = relu(W^(h) x^(h-1))``, with squared loss and
one perturbed row k, Theorem 2 of arXiv 2412.11057 gives for layer h moving alone

.. math:: \kappa_{h,k} = |\nabla_{x_k} f(x_k)| / |\nabla_{W^{(h)}} f(x_k)|_F .

It sees only row k's own equation ``f(x_k, w) = y_k``. The exact modulus also holds the
other rows to their labels. With A the Jacobian of all outputs in the moving weights, of
full row rank, and e_k the unit vector of row k,

.. math:: |A^+ e_k| \ge \frac{e_k' A A^+ e_k}{|A' e_k|} = \frac{1}{|A' e_k|},

so that the closed form is a lower bound of the exact modulus at interpolation, attained
where row k's gradient is orthogonal to the other rows'. The bound for the whole data
set (Theorem 3) is the largest over its rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..networks import DFCNN
from ..objective import Objective
from ..sensitivity import GraphicalDerivative

__all__ = ["check_closed_form", "closed_form_moduli", "interpolates"]

Array = NDArray[np.float64]

# Distance of the outputs to their targets, relative to the outputs, that still counts
# as interpolation: the formula then errs by about as much.
_INTERPOLATION_TOL = 1e-6


def closed_form_moduli(gd: GraphicalDerivative, *, by_layer: bool = False) -> Array:
    """Ratios of gradients in the data and in the weights, row by row.

    Parameters
    ----------
    gd : GraphicalDerivative
        At a solution that interpolates.

    by_layer : bool, default=False
        Whether each layer moves alone (Theorem 2) or all layers together.

    Returns
    -------
    moduli : ndarray of shape (n_samples,) or (n_samples, n_layers)
        Euclidean movement of the weights (of the layer) per Euclidean movement of the
        row; inf where the output of a row does not depend on them.

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Theorems 2 and 3.
    """
    objective, w = gd.objective, gd.weights
    in_data = np.linalg.norm(objective.input_jacobian(w)[:, 0], axis=1)
    J = objective.jacobian(w)[:, 0]
    if not by_layer:
        return _ratio(in_data, np.linalg.norm(J, axis=1))
    parts = objective.parameter_slices.values()
    in_layers = [np.linalg.norm(J[:, part], axis=1) for part in parts]
    return np.stack([_ratio(in_data, norms) for norms in in_layers], axis=1)


def _ratio(in_data: Array, in_weights: Array) -> Array:
    """Quotient of the gradients' norms; 0/0 is a row that is not seen at all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(in_data == 0.0, 0.0, in_data / in_weights)


def interpolates(gd: GraphicalDerivative) -> bool:
    """Whether the outputs meet their targets."""
    objective, w = gd.objective, gd.weights
    r = objective.output_gradient(w)
    outputs = objective.outputs(w).reshape(*r.shape, 1)
    scale = np.linalg.norm(objective.output_hessian(w) @ outputs)
    return bool(np.linalg.norm(r) <= _INTERPOLATION_TOL * scale)


def check_closed_form(objective: Objective) -> None:
    """Refuse a net that the closed form does not hold for.

    Raises
    ------
    ValueError
        With what the formula needs and what the net lacks.
    """
    lacking = _what_is_lacking(objective)
    if lacking:
        raise ValueError(
            "The 'method' parameter of lipschitz_modulus must not be 'closed_form' "
            f"here: {lacking}. Theorem 2 needs a DFCNN with ReLU, without biases, "
            "with its output vector fixed and one output, the squared loss and no "
            "weight decay. Got 'closed_form' instead of 'coderivative'."
        )


def _what_is_lacking(objective: Objective) -> str:
    net = objective.module
    if not isinstance(net, DFCNN):
        return f"the net is a {type(net).__name__}"
    if net.bias:
        return "its layers have biases"
    if net.train_output:
        return "its output layer is trained"
    if net.n_outputs != 1:
        return f"it has {net.n_outputs} outputs"
    if not all(isinstance(layer, nn.ReLU) for layer in net.activations):
        return f"its activation is {net.activation!r}"
    if objective.is_penalised(objective.weights):
        return "the objective has a penalty on the weights"
    if not objective.is_squared_error(objective.weights):
        return "the criterion is no squared error"
    return ""
