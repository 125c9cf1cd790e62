"""
================================================
Data audit: which rows deserve a second look?
================================================

There is time to check twenty of three hundred training rows. Which? Those at which an
error would matter most. That is what the Lipschitz modulus of a row says: how far the
solutions move, at worst, per unit by which the row's measurements are off.
"""

# %%
# The diabetes data, standardised. The targets of ten rows are spoilt on purpose.

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from sksetsens import SolutionSetEstimator, lipschitz_modulus
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)
X, y = map(scale, load_diabetes(return_X_y=True))
X, X_test, y, y_test = X[:300], X[300:], y[:300], y[300:]
rng = np.random.RandomState(0)
spoilt = rng.choice(len(X), 10, replace=False)
y[spoilt] += rng.choice([-2.5, 2.5], len(spoilt))

net = DFCNNRegressor(
    module__hidden_widths=(6,),
    module__activation="tanh",
    module__bias=True,
    module__train_output=True,
    optimizer__weight_decay=0.1,
    max_epochs=10,
)
model = SolutionSetEstimator(net, n_restarts=3, random_state=0).fit(X, y)
print(f"R2 on held-out rows: {model.score(X_test, y_test):.3f}")
print(f"may it be analysed?  {model.solution_set_.status[0]}")

# %%
# The list. A row that does not fit pulls at the model, so that the residual all but
# agrees with the modulus about the order, and would find the spoilt rows as well. What
# the residual cannot say is by how much the model would move, and in which direction
# the row is fragile.
modulus = lipschitz_modulus(model, level="sample").max(axis=0)
residual = np.abs(y - model.predict(X))
order = np.argsort(-modulus)
for name, ranking in (("modulus", order), ("residual", np.argsort(-residual))):
    found = np.isin(ranking[:20], spoilt).sum()
    print(f"spoilt rows among the first 20 by {name:8s}: {found} of {len(spoilt)}")
print(f"rank correlation of the two: {spearmanr(modulus, residual)[0]:.2f}")
print("the first five:", order[:5], "with moduli", modulus[order[:5]].round(3))

# %%
# Is it true? Let the measurements of five rows be off, by 0.3 each (in standard
# deviations of a feature) and in the worst direction for these five, and train again:
# the five most fragile rows, five at random, the five most solid ones. The bound is
# that of the first order, which these errors exceed by little.
groups = {
    "most fragile": order[:5],
    "at random": rng.choice(order[5:-5], 5, replace=False),
    "most solid": order[-5:],
}
size = 0.3 * np.sqrt(5)
bounds, moved, changed = [], [], []
before = model.predict(X_test)
print("\nfive rows off     bound   weights   predictions (root mean square)")
for name, rows in groups.items():
    kappa, directions = lipschitz_modulus(
        model,
        level="group",
        groups=np.isin(np.arange(len(X)), rows),  # False, True
        return_direction=True,
    )
    off = X.copy()
    off[rows] += size * directions[0][rows]
    retrained = model.retrain(off)
    shift = retrained.weights[0] - model.solution_set_.weights[0]
    change = retrained.predict(X_test).mean(axis=0) - before
    bounds.append(size * kappa[0, 1])
    moved.append(np.linalg.norm(shift))
    changed.append(np.sqrt(np.mean(change**2)))
    print(f"{name:15s} {bounds[-1]:7.4f}   {moved[-1]:7.4f}   {changed[-1]:7.4f}")

# %%
# The picture: the list, and what an error in it would have done.
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
others = np.setdiff1d(np.arange(len(X)), spoilt)
left.loglog(residual[others], modulus[others], ".", color="0.6", label="as measured")
left.loglog(
    residual[spoilt], modulus[spoilt], "C3x", ms=8, mew=2, label="target spoilt"
)
left.axhline(modulus[order[19]], color="0.3", ls=":")
left.text(residual.min(), 1.05 * modulus[order[19]], "look at these 20")
left.set(
    xlabel="residual of the row",
    ylabel="Lipschitz modulus of the row",
    title="Rows by what an error would do",
)
left.legend(frameon=False, loc="center left")
places = np.arange(len(groups))
right.plot(places, bounds, "k_", ms=30, mew=2, label="bound, to first order")
right.plot(places, moved, "C0o", label="by training again")
right.set(
    yscale="log",
    xlim=(-0.5, len(places) - 0.5),
    xticks=places,
    xticklabels=groups,
    ylabel="movement of the weights (norm)",
    title="Five rows off by 0.3 each, at worst",
)
right.legend(frameon=False)
fig.savefig("data_audit.png", dpi=120)
print("\npicture: data_audit.png, in this folder")
