"""
===================================================
ReLU networks: the solutions sit on their kinks
===================================================

A ReLU network trained with weight decay does not end where its loss is smooth. Its
minimisers sit exactly where some units switch: there the gradient jumps, and no formula
with "the" Hessian is right. The classical influence function is off by more than the
movement itself here, however small the perturbation. On the kinks everything is smooth
again, and the movement is exact.
"""

# %%
# The data: 200 patients, 10 measurements each; a network of 16 ReLU units.
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)
diabetes = load_diabetes()
X, y = scale(diabetes.data[:200]), scale(diabetes.target[:200])

net = DFCNNRegressor(
    module__hidden_widths=(16,),
    module__activation="relu",
    module__bias=True,
    module__train_output=True,
    optimizer=torch.optim.Adam,
    optimizer__weight_decay=0.05,
    lr=0.005,
    max_epochs=200,
)
model = SolutionSetEstimator(net, n_restarts=2, random_state=0).fit(X, y)
solutions = model.solution_set_
for status, residual in zip(solutions.status, solutions.stationarity, strict=True):
    print(f"{status} (relative residual {residual:.0e})")

# %%
# Every row of the training data moves by delta in a random direction. Truth is what
# retraining finds: each solution continued to the minimiser on the moved data. The
# classical influence function is ``-H^-1 B dx`` with the gates of the units as they
# happen to be evaluated.
rng = np.random.default_rng(0)
directions = rng.standard_normal(X.shape)
directions /= np.linalg.norm(directions, axis=1, keepdims=True)


def influence_function(derivative, dX):
    """The linear system at the gates at hand."""
    plain = derivative.objective.off_kinks()
    H = plain.hessian(derivative.weights)
    b = plain.cross_product(derivative.weights, dX)
    return -np.linalg.pinv(H, rcond=1e-10, hermitian=True) @ b


sizes = np.array([1e-5, 1e-4, 3e-4, 1e-3, 1e-2])
ours, classical, first = [], [], None
for delta in sizes:
    dX = delta * directions
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Large ones leave the range of the first order.
        predicted = model.sensitivity(X + dX)
        retrained = model.retrain(X + dX)
    moved = retrained.weights - solutions.weights
    lengths = np.linalg.norm(moved, axis=1)
    naive = np.array(
        [influence_function(gd, dX) for gd in model.graphical_derivatives_]
    )
    ours.append(np.linalg.norm(predicted.shift - moved, axis=1) / lengths)
    classical.append(np.linalg.norm(naive - moved, axis=1) / lengths)
    if first is None:
        first = moved[0], predicted.shift[0], naive[0]
    print(
        f"delta {delta:.0e}: ours off by {np.median(ours[-1]):.1e} of the movement, "
        f"influence function by {np.median(classical[-1]):.2f}; kinks change from "
        f"{np.min(predicted.first_break):.2g} of it on at the earliest"
    )

# %%
# Left, the movement of every weight of one solution. Right, the error against the size
# of the perturbation: ours grows in proportion to it until kinks begin to change
# (``first_break`` says when); the influence function's does not shrink at all.
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
truth, prediction, naive = (v / np.linalg.norm(first[0]) for v in first)
limit = 1.1 * np.abs(truth).max()
left.plot([-limit, limit], [-limit, limit], color="0.7", zorder=0)
left.scatter(truth, naive, s=16, color="tab:red", alpha=0.6, label="influence function")
left.scatter(truth, prediction, s=16, color="tab:blue", label="on the kinks (ours)")
left.set_xlabel("true movement of a weight (share of all)")
left.set_ylabel("predicted")
left.set_title("Every weight of one solution")
left.legend()
right.loglog(sizes, np.array(classical), color="tab:red", alpha=0.6)
right.loglog(sizes, np.array(ours), color="tab:blue")
right.set_xlabel("size delta of the perturbation, per row")
right.set_ylabel("error, relative to the true movement")
right.set_title("Both solutions")
right.plot([], [], color="tab:red", label="influence function")
right.plot([], [], color="tab:blue", label="on the kinks (ours)")
right.legend()
plt.show()

# %%
# Beyond the first change the movement goes on with another slope. `follow_path` crosses
# such changes one by one, and one correction ends on the kinks that hold there.
far = X + 0.01 * directions
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    corrected, retrained = model.sensitivity(far, n_corrections=1), model.retrain(far)
gaps = np.linalg.norm(corrected.weights - retrained.weights, axis=1)
print(f"kinks at the start {solutions.n_kinks}, at delta 0.01 {corrected.n_kinks}")
print(f"distance to retraining after a correction {gaps}")
