"""
=======================================================
Which rows, features and layers is my model fragile to?
=======================================================

The Lipschitz modulus of a solution is the most that its weights move per unit of
change in the training data. Taken over all data it is one number. Taken over parts of
the data, or of the network, it is a map of where a model is fragile: which patients'
records, which measurements, which layers.
"""

# %%
# The data: 442 patients, 10 measurements each. Everything is standardised, so that one
# unit of perturbation is one standard deviation of a measurement, in one row.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from sksetsens import SolutionSetEstimator, lipschitz_modulus
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)
diabetes = load_diabetes()
names = np.array(diabetes.feature_names)
X, y = scale(diabetes.data), scale(diabetes.target)

net = DFCNNRegressor(
    module__hidden_widths=(16,),
    module__activation="tanh",
    module__bias=True,
    module__train_output=True,
    optimizer__weight_decay=0.1,
    max_epochs=20,
)
model = SolutionSetEstimator(net, n_restarts=3, random_state=0).fit(X, y)
solutions = model.solution_set_
print(solutions)
print(f"losses                       {solutions.losses.round(6)}")
print(f"norm of the weights          {np.linalg.norm(solutions.weights, axis=1)}")

# %%
# All data together. The modulus is exact for small perturbations; "empirical" checks
# it: it retrains on perturbed data, along the worst direction and along random ones,
# and reports the largest movement it has seen.
kappa = lipschitz_modulus(model)
seen, evidence = lipschitz_modulus(model, method="empirical", return_evidence=True)
print(f"\nmodulus of all data          {kappa:.4f}")
print(f"largest one seen retraining  {seen:.4f}")
print(f"  may exceed it by at most   {max(e.second_order[0] for e in evidence):.4f}")

# %%
# The three restarts reached the same loss. Are they equally fragile? A table of moduli
# has one row per solution.
by_row = lipschitz_modulus(model, level="sample")
by_feature, directions = lipschitz_modulus(
    model, level="feature", return_direction=True
)
by_layer = lipschitz_modulus(model, level="layer")
spread = max(np.ptp(table, axis=0).max() for table in (by_row, by_feature, by_layer))
print(f"\nspread over the restarts     {spread:.1e}")

# %%
# They are: they are one function, with its hidden units in another order. From here on,
# the first solution speaks for all.
#
# Rows first. A row is fragile where the model misses it: its modulus goes nearly in
# proportion to its residual. A patient whom the model predicts exactly could be
# measured anew without moving the solution much.
by_row, by_feature, by_layer = by_row[0], by_feature[0], by_layer[0]
residual = y - model.predict(X)
fragile = np.argsort(by_row)[::-1]
print("\nmost fragile rows   modulus  residual")
for row in fragile[:5]:
    print(f"{row:17d} {by_row[row]:9.4f} {residual[row]:9.2f}")
print(f"median of all rows {np.median(by_row):8.4f} {np.median(abs(residual)):9.2f}")
print(f"correlation with |residual|  {np.corrcoef(by_row, abs(residual))[0, 1]:.3f}")

# %%
# Features next, each moving in all rows at once. The serum measurements s1 to s4 stand
# out: they are strongly correlated with each other, and what one of them explains is
# easily handed to another. `by_retraining` repeats each row of the table the slow way.
# The worst direction tells what kind of change does it: for every feature, one in
# proportion to the residual, up to its sign. Random errors of measurement are not
# like that. Errors that go with what the model cannot explain are.
by_retraining = lipschitz_modulus(
    model, level="feature", method="empirical", n_directions=0
)[0]
print("\nfeature  modulus  by retraining  correlation of direction and residual")
for j in np.argsort(by_feature)[::-1]:
    likeness = abs(np.corrcoef(directions[0, j], residual)[0, 1])
    print(
        f"{names[j]:7s} {by_feature[j]:8.4f} {by_retraining[j]:14.4f} {likeness:20.2f}"
    )

# %%
# Layers: all data moves, but one tensor of weights alone may answer. The first layer
# alone would go nearly as far as the whole net does. The others, left alone with the
# change, would hardly move: this net is fragile in its first layer.
print("\nlayer              weights  modulus")
sizes = [part.numel() for part in model.estimators_[0].module_.parameters()]
for name, size, value in zip(model.layer_names_, sizes, by_layer, strict=True):
    print(f"{name:18s} {size:7d} {value:8.4f}")

# %%
# Groups of rows, by any labels. A larger group can do more: to compare groups of
# different sizes, divide by the root of their numbers of rows, which turns the norm of
# the perturbation into its size per row.
third = np.array(["1st third", "2nd third", "3rd third"])
groups = {
    "sex code": np.where(X[:, 1] > 0, "2", "1"),
    "age": third[np.digitize(X[:, 0], np.quantile(X[:, 0], [1 / 3, 2 / 3]))],
    "outcome": third[np.digitize(y, np.quantile(y, [1 / 3, 2 / 3]))],
}
print("\ngroup                   rows  modulus  per root of rows")
for what, labels in groups.items():
    by_group = lipschitz_modulus(model, level="group", groups=labels)[0]
    for label, value in zip(np.unique(labels), by_group, strict=True):
        n = np.sum(labels == label)
        print(f"{what:9s}{label:14s}{n:5d}{value:9.4f}{value / np.sqrt(n):18.4f}")

# %%
# One picture. What is measured is the same in all panels: how far the weights move
# (norm) when the data moves by one standard deviation (norm over all that moves).
fig, (left, middle, right) = plt.subplots(
    1, 3, figsize=(12, 4.2), layout="constrained", width_ratios=(1.2, 1, 1)
)
unit = "movement of the weights\nper standard deviation"
proportion = by_row @ abs(residual) / (residual @ residual)
left.plot(proportion * abs(residual)[fragile], ".", color="0.7", ms=4)
left.plot(by_row[fragile], color="C0", lw=2)
left.annotate(
    "most fragile: rows " + ", ".join(map(str, fragile[:3])),
    (0, by_row[fragile[0]]),
    xytext=(10, 0),
    textcoords="offset points",
    va="center",
)
left.text(150, 0.65 * by_row.max(), "modulus of each row", color="C0")
left.text(150, 0.58 * by_row.max(), r"in proportion to |residual|", color="0.5")
left.set(
    ylim=(0, None),
    xlabel="rows, the most fragile first",
    ylabel=unit,
    title="One row moves",
)
order = np.argsort(by_feature)
middle.barh(names[order], by_feature[order], color="C0", label="exact modulus")
middle.plot(
    by_retraining[order], names[order], "o", color="k", mfc="w", label="by retraining"
)
middle.legend(frameon=False, loc="lower right")
middle.set(xlabel=unit, title="One feature moves, in all rows")
right.barh(model.layer_names_[::-1], by_layer[::-1], color="C0")
right.axvline(kappa, color="0.3", ls="--", lw=1)
right.text(kappa, 1.5, "all layers answer ", ha="right", va="center", color="0.3")
right.set(xlabel=unit, xlim=(0, 1.1 * kappa), title="All data moves, one layer answers")
fig.savefig("moduli.png", dpi=120)
print("\npicture: moduli.png, in this folder")
