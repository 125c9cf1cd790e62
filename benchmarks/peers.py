"""How other libraries solve ``(H + decay I) v = -b``, each as its documentation says.

SciPy comes with the library; curvlinops, pyDVL and captum are optional
(see CONTRIBUTING.md). A peer is a function of a problem that returns
``solve(b, tol)``; building it is part of the first answer, a further answer reuses it.
Iterative peers stop at their own tolerance, the others ignore it.
"""

import importlib.util
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg, lsmr, minres
from torch.func import functional_call, grad, jvp
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["PEERS", "Peer", "missing"]


def max_products(problem) -> int:
    """Products with H after which a peer that has not arrived is called "never".

    Several times what the best Krylov method needs; minutes would add nothing.
    """
    if problem.is_tiny:
        return 20
    if np.isnan(problem.reference).any():
        return 1000  # nothing to arrive at: curvlinops' default
    return 2000 if problem.weights.size < 10_000 else 300


@dataclass(frozen=True)
class Peer:
    """A solver of another library.

    Attributes
    ----------
    name : str
    package : str
        That must be importable.
    make : callable
        ``make(problem)`` returns ``solve(b, tol)``; b of shape (p,) or (p, k) where
        ``many`` is True.
    iterative : bool
    many : bool
        Whether several right-hand sides at once are cheaper.
    """

    name: str
    package: str
    make: Callable
    iterative: bool = True
    many: bool = False


def missing(peer: Peer) -> bool:
    """Whether the peer is not installed."""
    return importlib.util.find_spec(peer.package) is None


def batch(problem) -> DataLoader:
    """All rows as one batch."""
    X, y = problem.tensors
    return DataLoader(TensorDataset(X, y), batch_size=len(X))


# SciPy, with products by jvp(grad) ---------------------------------------------------


def hessian_operator(problem) -> LinearOperator:
    """``H + decay I`` by forward over reverse differentiation."""
    module, (X, y), loss = problem.module, problem.tensors, problem.criterion()
    params = {k: p.detach() for k, p in module.named_parameters()}
    sizes = [p.numel() for p in params.values()]

    def gradient(params, y):
        def value(params):
            return loss(functional_call(module, params, (X,)), y)

        return grad(value)(params)

    def derivative(tangents):
        if not y.is_floating_point():
            return jvp(lambda w: gradient(w, y), (params,), (tangents,))[1]
        # torch cannot push MSELoss's gradient forward without a tangent for its target.
        return jvp(gradient, (params, y), (tangents, torch.zeros_like(y)))[1]

    def product(v):
        pieces = torch.split(torch.as_tensor(np.ravel(v)), sizes)
        tangents = {
            k: piece.reshape(p.shape)
            for (k, p), piece in zip(params.items(), pieces, strict=True)
        }
        moved = derivative(tangents)
        flat = torch.cat([moved[k].reshape(-1) for k in params]).numpy()
        return flat + problem.decay * np.ravel(v)

    p = sum(sizes)
    return LinearOperator((p, p), product, rmatvec=product, dtype=np.float64)


def scipy_minres(problem):
    H, most = hessian_operator(problem), max_products(problem)
    return lambda b, tol: checked(*minres(H, -b, rtol=tol, maxiter=most))


def scipy_cg(problem):
    H, most = hessian_operator(problem), max_products(problem)
    return lambda b, tol: checked(*cg(H, -b, rtol=tol, maxiter=most))


def scipy_lsmr(problem):
    H, most = hessian_operator(problem), max_products(problem) // 2

    def solve(b, tol):
        # Two products an iteration: half the budget of the others.
        v, stop, *_ = lsmr(H, -b, atol=tol, btol=tol, conlim=0, maxiter=most)
        return checked(v, stop == _ITERATIONS_SPENT)

    return solve


_ITERATIONS_SPENT = 7  # LSMR's istop


def checked(v, info):
    """SciPy returns a code, which a careful user turns into a warning."""
    if info:
        warnings.warn(f"not converged: SciPy's code is {int(info)}", stacklevel=2)
    return v


# curvlinops -------------------------------------------------------------------------


def curvlinops_operator(problem):
    """``H + decay I`` as curvlinops composes it."""
    from curvlinops import HessianLinearOperator
    from curvlinops.examples import IdentityLinearOperator

    params = [p for p in problem.module.parameters() if p.requires_grad]
    X, y = problem.tensors
    H = HessianLinearOperator(
        problem.module, problem.criterion(), params, [(X, y)], check_deterministic=False
    )
    if not problem.decay:
        return H
    shapes, device, dtype = [p.shape for p in params], X.device, X.dtype
    return H + problem.decay * IdentityLinearOperator(shapes, device, dtype)


def curvlinops_cg(problem):
    from curvlinops import CGInverseLinearOperator

    H = curvlinops_operator(problem)

    def solve(b, tol):
        # Its defaults for eps and stop_updating_after, 1e-10, end the iteration early.
        settings = {"eps": 0.0, "stop_updating_after": 0.0}
        inverse = CGInverseLinearOperator(
            H, tolerance=tol, max_iter=max_products(problem), **settings
        )
        return -(inverse @ torch.as_tensor(b)).numpy()

    return solve


# pyDVL ------------------------------------------------------------------------------


def pydvl_cg(problem):
    from pydvl.influence.torch.operator import CgOperator, HessianOperator

    H = HessianOperator(problem.module, problem.criterion(), batch(problem))

    def solve(b, tol):
        # It stops where the residual, not relative, is below atol squared.
        atol = float(np.sqrt(tol * np.linalg.norm(b) / np.sqrt(b.size / len(b))))
        operator = CgOperator(
            H,
            regularization=problem.decay,
            rtol=0.0,
            atol=atol,
            maxiter=max_products(problem),
            use_block_cg=b.ndim == 2,
        )
        rows = torch.as_tensor(b.T.reshape(-1, len(b)))
        return -operator.apply(rows).numpy().T.reshape(b.shape)

    return solve


def pydvl_direct(problem):
    from pydvl.influence.torch.functional import hessian
    from pydvl.influence.torch.operator import DirectSolveOperator

    H = hessian(problem.module, problem.criterion(), batch(problem))
    operator = DirectSolveOperator(H, regularization=problem.decay or None)
    return lambda b, tol: -operator.apply(torch.as_tensor(b)).detach().numpy()


# captum -----------------------------------------------------------------------------

# Of captum's eigenvalues, set by hand between rounding and the smallest of C and At.
CUTOFF = 1e-9


class _PerRow(torch.nn.Module):
    """Losses of rows; captum sums them."""

    def __init__(self, criterion):
        super().__init__()
        self.criterion, self.reduction = criterion(reduction="none"), "none"

    def forward(self, outputs, y):
        return self.criterion(outputs, y).reshape(len(y), -1).mean(1)


def captum_naive(problem):
    """``n R R'`` with ``R R'`` the inverse of the summed Hessian.

    The decay, times n, is its ``hessian_reg``, which it rounds to float32.
    """
    from captum.influence import NaiveInfluenceFunction

    checkpoint = io.BytesIO()
    torch.save(problem.module.state_dict(), checkpoint)
    n = problem.objective.n_samples

    def load(module, checkpoint):
        checkpoint.seek(0)
        module.load_state_dict(torch.load(checkpoint))
        return 1.0

    naive = NaiveInfluenceFunction(
        problem.module,
        batch(problem),
        checkpoint,
        checkpoints_load_func=load,
        loss_fn=_PerRow(problem.criterion),
        batch_size=None,
        projection_dim=problem.weights.size,
        hessian_reg=n * problem.decay,
        hessian_inverse_tol=n * CUTOFF,
    )
    R = naive.R
    return lambda b, tol: -n * (R @ (R.T @ torch.as_tensor(b))).numpy()


PEERS = [
    Peer("SciPy MINRES, jvp(grad)", "scipy", scipy_minres),
    Peer("SciPy CG, jvp(grad)", "scipy", scipy_cg),
    Peer("SciPy LSMR, jvp(grad)", "scipy", scipy_lsmr),
    Peer("curvlinops CG", "curvlinops", curvlinops_cg, many=True),
    Peer("pyDVL CG", "pydvl", pydvl_cg, many=True),
    Peer("pyDVL direct", "pydvl", pydvl_direct, iterative=False),
    Peer("captum naive", "captum", captum_naive, iterative=False),
]


def quietly(function, *arguments):
    """Result and the warnings that a peer gave, of deprecations apart."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = function(*arguments)
    other = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
    return result, [str(w.message) for w in told if not issubclass(w.category, other)]
