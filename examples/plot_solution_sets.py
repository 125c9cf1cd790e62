"""
=======================================================
Sets, not points: a network with more weights than data
=======================================================

A wide network fits 442 patients exactly with 769 weights. Its solutions form a
manifold: at each one, 327 directions change nothing. Moving the data moves the
manifold, and *which* of its points a training ends at is up to the optimiser. The
prediction is therefore a set, ``w + v0 + ker H``, and has to be compared as one.
"""

# %%

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)
X, y = map(scale, load_diabetes(return_X_y=True))
net = DFCNNRegressor(
    module__hidden_widths=(64,),
    module__activation="tanh",
    module__bias=True,
    module__train_output=True,
    max_epochs=20,
)
model = SolutionSetEstimator(net, n_restarts=2, perturbation="random", random_state=0)
solutions = model.fit(X, y).solution_set_
print(solutions)
print(f"losses {solutions.losses}")

# %%
# Predict, correct once, and retrain from the old weights. Two distances from the
# retrained weights, relative to the shift: to the predicted *set*, and to its base
# *point*, the shortest movement.
sizes = [0.001, 0.01, 0.03]
rows = []
print(
    "\n size    to the set: predicted  corrected    to the point: predicted  corrected"
)
for size in sizes:
    X_perturbed = model.set_params(perturbation_size=size).perturb()
    retrained = model.retrain(X_perturbed)
    row = []
    for n_corrections in (0, 1):
        p = model.sensitivity(X_perturbed, n_corrections=n_corrections)
        to_set = np.diagonal(p.piece_distances(retrained)) / p.shift_norm
        to_point = np.linalg.norm(retrained.weights - p.weights, axis=1) / p.shift_norm
        row += [to_set.max(), to_point.max()]
    rows.append(row)
    print(f"{size:5.3f} {row[0]:23.2g} {row[2]:10.2g} {row[1]:26.2g} {row[3]:10.2g}")

# %%
# One correction brings the predicted set onto the retrained weights: the error of the
# first order is of second order, and the correction squares it. The points stay where
# they were. Prediction and retraining both end on the new manifold, but at different
# elements of it: the prediction at the one nearest to the old weights, by tangent
# planes; Levenberg-Marquardt at the one its own path led to. Neither is wrong. A
# method that reports one vector could not tell this from an error.
fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
to_set, to_point, corrected_set, corrected_point = np.array(rows).T
ax.loglog(sizes, to_point, "s--", color="C1", label="to the predicted point")
ax.loglog(sizes, corrected_point, "s:", color="C1", mfc="w", label="... corrected once")
ax.loglog(sizes, to_set, "o-", color="C0", label="to the predicted set")
ax.loglog(sizes, corrected_set, "o-", color="C0", mfc="w", label="... corrected once")
ax.set(
    xlabel="perturbation size per row",
    ylabel="distance of the retrained weights / shift",
    title="The set is right where no point can be",
)
ax.legend(frameon=False, fontsize=8)
fig.savefig("solution_sets.png", dpi=120)
print("\npicture: solution_sets.png, in this folder")
