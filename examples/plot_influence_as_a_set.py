"""
=================================================================
Influence as a set: what a row does to a net that interpolates
=================================================================

A net that fits its data exactly has no gradient left in any row: leaving one out moves
nothing, and every influence function is 0. Yet training without the row ends elsewhere,
because the set of solutions has grown. The answer is an interval, not a number.
"""

# %%
# Twelve points of a curve, a net that goes through all of them, without weight decay.

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import least_squares
from skorch import NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator, sample_influence

torch.set_num_threads(1)
rng = np.random.default_rng(0)
x = np.sort(rng.uniform(-2, 2, 12))
y = np.sin(2 * x) + 0.2 * rng.standard_normal(12)
X, grid = x[:, None], np.linspace(-2.2, 2.2, 200)[:, None]


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 1))

    def forward(self, X):
        return self.layers(X)


net = NeuralNetRegressor(
    MLP,
    optimizer=torch.optim.Adam,
    lr=0.02,
    max_epochs=1500,
    batch_size=-1,
    train_split=None,
    verbose=0,
)
model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
solutions = model.solution_set_
print("loss:", solutions.losses, " dimension of the set:", solutions.kernel_dims)

# %%
# Leave out the fourth point, which stands alone. The prediction does not move; the set
# gains a dimension, and within a radius of 0.5 in weight space the prediction may be
# anything in the band.
row, radius = 3, 0.5
influence = sample_influence(model, grid, of="prediction", samples=[row, 9])
lower, upper = influence.range_within(radius)
print("movement of the weights:", influence.shift_norm[0])
print("dimension without the row:", influence.kernel_dims[0])

# %%
# Train on without the row, by least squares from twenty starts around the solution: all
# end at a loss of 0, and no two in the same place.
kept = np.arange(len(X)) != row
objective, w = solutions.objectives[0], solutions.weights[0]


def errors(weights):
    return objective.outputs(weights, X[kept])[:, 0] - y[kept]


steps = rng.standard_normal((20, len(w)))
steps *= radius / np.linalg.norm(steps, axis=1, keepdims=True)
ends = np.array([least_squares(errors, w + step).x for step in steps])
near = np.linalg.norm(ends - w, axis=1) <= radius
print(f"{near.sum()} of 20 end within the radius")
trained = np.array([objective.outputs(end, grid)[:, 0] for end in ends[near]])
now = solutions.predict(grid)[0]
below, above = now + lower[0, :, 0], now + upper[0, :, 0]
inside = np.mean((trained > below - 0.02) & (trained < above + 0.02))
print(f"of their predictions {inside:.0%} lie in the band, to 0.02")

# %%
# The picture: where rows are left, the band is closed; where none is near, it is wide.
# What influence functions say is the line in its middle.
fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
for j, (ax, left_out) in enumerate(zip(axes, influence.samples, strict=True)):
    band = now + lower[0, :, j], now + upper[0, :, j]
    ax.fill_between(grid[:, 0], *band, alpha=0.25, color="C0", label="the interval")
    ax.plot(grid, now, color="C0", label="the net, and every influence function")
    others = np.setdiff1d(np.arange(len(X)), left_out)
    ax.plot(x[others], y[others], "ko", ms=4, label="rows that are left")
    ax.plot(x[left_out], y[left_out], "C3x", ms=9, mew=2, label="row left out")
    ax.set(title=f"without row {left_out[0]}", xlabel="x", ylim=(-3.2, 2.4))
axes[0].plot(grid, trained.T, color="C1", linewidth=0.4, alpha=0.6, zorder=0)
axes[0].plot([], [], color="C1", label="trained on without it")
axes[0].set_ylabel("prediction")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
fig.suptitle(f"What training may find within {radius} of the weights")
fig.savefig("influence_as_a_set.png", dpi=120)
print("\npicture: influence_as_a_set.png, in this folder")
