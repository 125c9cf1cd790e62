"""Largest singular and eigenvalues by Lanczos iterations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh, svds

from ._probes import probe

Array = NDArray[np.float64]


def operator_norm(operator: LinearOperator, *, tol: float = 0.0) -> tuple[float, Array]:
    """Spectral norm of a linear operator and the input direction that attains it.

    Small operators are formed and decomposed; larger ones go through SciPy's
    Lanczos iteration at working precision, from a fixed start, so that the result
    repeats.

    Parameters
    ----------
    operator : LinearOperator of shape (m, n)
        With products and adjoint products.

    tol : float, default=0.0
        Relative accuracy of the norm where products are only approximate themselves; 0
        for working precision.

    Returns
    -------
    norm : float
        Largest singular value; inf where products are not finite.

    direction : ndarray of shape (n,)
        Unit vector u with ``|operator @ u| = norm``, largest entry positive; NaN where
        the norm is infinite.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import aslinearoperator
    >>> from sksetsens.linalg import operator_norm
    >>> norm, u = operator_norm(aslinearoperator(np.array([[3.0, 4.0]])))
    >>> round(norm, 6), u.round(6)
    (5.0, array([0.6, 0.8]))
    """
    m, n = operator.shape
    if min(m, n) <= _DENSE:
        short = operator.T if m <= n else operator
        dense = short @ np.eye(min(m, n))
        dense = dense.T if m <= n else dense
        if not np.isfinite(dense).all():
            return np.inf, np.full(n, np.nan)
        _, sigma, vt = np.linalg.svd(dense, full_matrices=False)
        norm, u = float(sigma[0]), vt[0]
    else:
        norm, u = _lanczos(operator, tol)
    return norm, u * (1.0 if u[np.argmax(np.abs(u))] >= 0 else -1.0)


def _lanczos(operator: LinearOperator, tol: float) -> tuple[float, Array]:
    m, n = operator.shape
    start = probe(min(m, n))
    image = operator.rmatvec(start) if m <= n else operator.matvec(start)
    size = float(np.abs(image).max())
    if not np.isfinite(size):
        return np.inf, np.full(n, np.nan)
    if size < np.finfo(float).tiny:
        # A random start in the kernel: the operator is zero, and ARPACK would raise.
        return 0.0, np.eye(1, n)[0]
    # Products with the adjoint square the size, which must not underflow.
    unit = 1.0 if size > UNDERFLOWS else size
    scaled = operator if unit == 1.0 else operator * (1.0 / unit)
    _, sigma, vt = svds(scaled, k=1, v0=start, tol=tol)
    return float(sigma[0]) * unit, vt[0]


def top_eigenvalue(A: Array | LinearOperator) -> float:
    """Largest eigenvalue of a positive semidefinite matrix to three digits, from below.

    They are compared across decades.
    """
    p = A.shape[0]
    if p == 1:  # Lanczos iterations want two rows at least.
        return float((A @ np.ones(1))[0])
    found = eigsh(A, k=1, v0=probe(p), tol=_TOL, return_eigenvectors=False)
    return float(found[0])


# Relative accuracy of the largest eigenvalue.
_TOL = 1e-3
# Below this size squares of products lose digits to underflow.
UNDERFLOWS = 1e-140
# Below this many rows or columns a product with the identity costs less than a
# Lanczos run of typically 30 to 60 products.
_DENSE = 32
