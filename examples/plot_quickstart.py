"""
=====================================================
If the data had been a little different: a quick tour
=====================================================

A small network is trained on scikit-learn's diabetes data from eight random starts.
Then every training row is moved a little, and we ask where the solutions go: by
prediction (no retraining), by the bound that holds for any perturbation, and by
retraining.
"""

# %%
# The data: 442 patients, 10 standardised measurements, the disease's progression.
# The last 92 rows are held out.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)
X, y = map(scale, load_diabetes(return_X_y=True))
X, X_test, y, y_test = X[:350], X[350:], y[:350], y[350:]

# %%
# Any skorch net will do. This one is a plain multilayer perceptron with a smooth
# activation. Weight decay makes it predict well on new rows and gives every solution
# a positive definite Hessian.
net = DFCNNRegressor(
    module__hidden_widths=(16,),
    module__activation="tanh",
    module__bias=True,
    module__train_output=True,
    optimizer__weight_decay=0.1,
    max_epochs=20,
)
model = SolutionSetEstimator(
    net, n_restarts=8, perturbation="random", perturbation_size=0.03, random_state=0
)
model.fit(X, y)
solutions = model.solution_set_
print(solutions)
print(f"each of them: {solutions.status[0]}")
print(f"largest gradient norm          {solutions.gradient_norms.max():.1e}")
print(f"R2 on the held-out rows        {model.score(X_test, y_test):.3f}")

# %%
# Move every row by 0.03 in a random direction, and predict the new set of solutions.
X_perturbed = model.perturb()
size = np.linalg.norm(X_perturbed - X)
predicted = model.sensitivity(X_perturbed)
retrained = model.retrain(X_perturbed)  # the truth, to compare with
moved = np.linalg.norm(retrained.weights - solutions.weights, axis=1)
gap = predicted.distance(retrained) / predicted.shift_norm
kappa = model.lipschitz_modulus_

print(f"\nbound on the movement          {kappa * size:.4f}  (kappa = {kappa:.3f})")
print(f"predicted movement             {predicted.shift_norm.max():.4f}")
print(f"movement by retraining         {moved.max():.4f}")
print(f"retrained, off the prediction  {gap.max():.1%} of the movement")
print(f"what the prediction says       {predicted.status[0]}")

# %%
# The same for other sizes, and along the worst direction there is, which attains the
# bound as long as the first order holds. `nonlinearity` tells how far that is without
# retraining: the share of the perturbed residual that the prediction leaves.
sizes = np.array([0.0003, 0.001, 0.003, 0.01, 0.03])
movements = {}
print("\ndirection     size   bound  predicted  retrained    gap  nonlinearity")
for direction in ("random", "worst_case"):
    model.set_params(perturbation=direction)
    movements[direction] = []
    for delta in sizes:
        X_delta = model.set_params(perturbation_size=delta).perturb()
        p, r = model.sensitivity(X_delta), model.retrain(X_delta)
        truth = np.linalg.norm(r.weights - solutions.weights, axis=1).max()
        bound = kappa * np.linalg.norm(X_delta - X)
        movements[direction].append((bound, p.shift_norm.max(), truth))
        print(
            f"{direction:10s} {delta:7.4f} {bound:7.4f} {p.shift_norm.max():10.5f} "
            f"{truth:10.5f} {(p.distance(r) / p.shift_norm).max():6.3f} "
            f"{p.nonlinearity.max():13.3f}"
        )

# %%
# One picture: how far the solutions move, and what that does to predictions.
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
for (direction, values), color in zip(movements.items(), ("C0", "C3"), strict=True):
    bound, first_order, truth = np.array(values).T
    name = direction.replace("_", " ")
    left.loglog(sizes, first_order, color=color, label=f"{name}: predicted")
    left.loglog(sizes, truth, "o", color=color, mfc="none", label=f"{name}: retrained")
left.loglog(sizes, bound, color="0.3", ls="--", label=r"bound $\kappa\,|dx|$")
left.set(
    xlabel="perturbation size per row",
    ylabel="movement of the weights (norm)",
    title="How far the solutions move",
)
left.legend(frameon=False, fontsize=8)

before = model.predict(X_test)
change_predicted = predicted.predict(X_test).mean(axis=0) - before
change_retrained = retrained.predict(X_test).mean(axis=0) - before
limit = 1.1 * np.abs(change_retrained).max()
right.axline((0, 0), slope=1, color="0.7", lw=1)
right.plot(change_retrained, change_predicted, ".", color="C0")
right.set(
    xlim=(-limit, limit),
    ylim=(-limit, limit),
    aspect="equal",
    xlabel="change by retraining",
    ylabel="predicted change",
    title="Predictions for held-out rows (random, 0.03)",
)
right.locator_params(nbins=5)
fig.savefig("quickstart.png", dpi=120)
print("\npicture: quickstart.png, in this folder")
