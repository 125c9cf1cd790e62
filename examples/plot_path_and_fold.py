"""
=====================================================
Following a solution until it arrives, or disappears
=====================================================

The first order describes small changes of the data. For a large change, `follow_path`
moves the data there bit by bit and takes the solution along: predict, correct, repeat.
And sometimes there is nothing to follow any more: solutions can disappear on the way.
We start with a problem where that happens and everything is known in closed form.
"""

# %%
# A model of one weight with two wells. While the data moves from t = 0 to t = 1, the
# left minimum meets a maximum and vanishes, in a *fold*, half way.
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale
from skorch import NeuralNetRegressor

from sksetsens import SolutionSetEstimator, follow_path
from sksetsens.datasets import make_fold
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)
fold = make_fold(fold_fraction=0.5, random_state=0)
net = NeuralNetRegressor(
    fold.module,
    module__start=float(fold.weights[0]),
    criterion=fold.criterion,
    train_split=None,
    max_epochs=1,
)
model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(fold.X, fold.y)
path = follow_path(model, fold.X_perturbed)
track = path.tracks[0]
print("     t   followed      exact  smallest eigenvalue of H")
for t, w, eigenvalue in zip(
    track.t, track.weights, track.smallest_eigenvalues, strict=True
):
    print(f"{t:6.4f} {w[0]:10.6f} {fold.branch(t)[0]:10.6f} {eigenvalue:12.4f}")
print(track.status)
print(f"fold, predicted  {track.stopped_at:.6f}")
print(f"fold, exact      {fold.fold_fraction:.6f}")

# %%
# The path does not step over the fold. Retraining does, and ends in the other well.
retrained_fold = model.retrain(fold.X_perturbed).weights[0, 0]
print(f"retrained        {retrained_fold:.6f}")

# %%
# Now real data. The rows of the diabetes data move by 0.3 standard deviations each, in
# the directions in which their losses grow, which is beyond the first order.
X, y = map(scale, load_diabetes(return_X_y=True))
net = DFCNNRegressor(
    module__hidden_widths=(16,),
    module__activation="tanh",
    module__bias=True,
    module__train_output=True,
    optimizer__weight_decay=0.1,
    max_epochs=20,
)
model = SolutionSetEstimator(
    net, n_restarts=2, perturbation="gradient", perturbation_size=0.3, random_state=0
).fit(X, y)
base = model.solution_set_.weights
X_perturbed = model.perturb()


def norms(vectors):
    return np.linalg.norm(vectors, axis=1)


# %%
# `tol` is the error that a prediction may have before it is corrected. The default
# makes few, long steps; small values trace the way.
start = time.perf_counter()
retrained = model.retrain(X_perturbed)
elapsed = time.perf_counter() - start
moved = norms(retrained.weights - base)
print(f"\nwarm retraining:  {elapsed:.1f} s, the solutions move by {moved.round(4)}")
once = model.sensitivity(X_perturbed)
gap = norms(once.weights - retrained.weights) / moved
print(f"one prediction:   misses {gap.max():.0%} of that")
for tol in (0.3, 0.03):
    start = time.perf_counter()
    path = follow_path(model, X_perturbed, tol=tol)
    elapsed = time.perf_counter() - start
    gap = norms(path.solution_set.weights - retrained.weights) / moved
    print(f"path, tol={tol:4}:   {elapsed:.1f} s, {path.status[0]}")
    print(f"                  off the retrained weights: {gap.max():.0e}")

# %%
# Path and retraining meet in the same weights, to rounding. With long steps the path
# takes about as long; what it adds is to know that the branch was never left. In the
# worst direction there is, the same size is too much:
X_worst = model.set_params(perturbation="worst_case").perturb()
worst = follow_path(model, X_worst).tracks[0]
lost = worst.smallest_eigenvalues
print(f"\nworst direction:  {worst.status}")
print(
    f"                  smallest eigenvalue of H from {lost[0]:.1e} to {lost[-1]:.1e}"
)

# %%
# Here, too, a minimum is about to lose its curvature, on real data: branches meet, and
# no derivative at the start could tell what comes after.
#
# One picture: on the left all stationary points of the toy problem, the curve that the
# path has to follow and the point where it must stop; on the right the diabetes data.
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
w = np.linspace(-1.15, 1.2, 400)
# The gradient is 0 where the mean of the data is this (see `make_fold`).
t = (w + 2 * w * (w**2 - 1) / fold.coupling) / fold.X_perturbed.mean()
is_minimum = 6 * w**2 - 2 + fold.coupling > 0
left.plot(*np.where(is_minimum, (t, w), np.nan), color="0.6", lw=5, alpha=0.6)
left.plot(*np.where(is_minimum, np.nan, (t, w)), color="0.6", ls=":")
slope = fold.shift(fold.dX)[0]
left.axline((0, fold.weights[0]), slope=slope, color="C1", ls="--", lw=1)
left.plot(track.t, np.ravel(track.weights), "o-", color="C0", mfc="w")
left.plot(track.stopped_at, fold.fold_weights[0], "X", color="C3", ms=10)
left.plot(1, retrained_fold, "s", color="k", clip_on=False)
left.annotate(
    "follow_path stops\nat the fold",
    (track.stopped_at, fold.fold_weights[0]),
    xytext=(14, 0),
    textcoords="offset points",
    va="center",
    color="C3",
)
left.text(0.72, -0.72, "first order", color="C1")
left.text(0.98, 0.9, "retraining jumps here", ha="right", va="top")
left.text(0.3, 0.82, "minima", color="0.4")
left.text(0.07, 0.12, "maxima", color="0.4")
left.set(
    xlim=(0, 1),
    ylim=(-1, 1.2),
    xlabel="share t of the perturbation",
    ylabel="weight w",
    title="A minimum disappears (grey: closed form)",
)

track = path.tracks[0]
shares = np.linspace(0, 1, 7)[1:]
data = [X + share * (X_perturbed - X) for share in shares]
truth = [norms(model.retrain(X_t).weights - base)[0] for X_t in data]
size = model.perturbation_size
right.plot([0, size], [0, once.shift_norm[0]], color="C1", ls="--", label="first order")
right.plot(
    size * np.array(track.t),
    norms(np.array(track.weights) - base[0]),
    "o-",
    color="C0",
    mfc="w",
    label="follow_path",
)
right.plot(size * shares, truth, "ks", ms=4, label="warm retraining")
right.set(
    xlim=(0, None),
    ylim=(0, None),
    xlabel="perturbation per patient (standard deviations)",
    ylabel="movement of the weights (norm)",
    title="Diabetes: a path that arrives",
)
right.legend(frameon=False, loc="upper left")
fig.savefig("path_and_fold.png", dpi=120)
print("\npicture: path_and_fold.png, in this folder")
