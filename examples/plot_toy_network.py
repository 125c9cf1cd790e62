"""
=========================================
The paper's toy network, number by number
=========================================

Two weights, two data points: ``f(x) = w1 w2 x`` fitted to ``x = (1, 2)``,
``y = (2, 4)``. The solutions are the hyperbola ``w1 w2 = 2``, so the Hessian is
singular everywhere on it. The data is moved by ``dx = -0.2 x``, which moves the set to
``w1 w2 = 2.5``. We recompute what Wang, Wang and Ban (AAAI 2025, arXiv 2412.11057)
print for this example.
"""

# %%

import matplotlib.pyplot as plt
import numpy as np
import torch
from skorch import NeuralNetRegressor

from sksetsens import SolutionSetEstimator
from sksetsens.datasets import make_toy_network

torch.set_num_threads(1)
toy = make_toy_network()


def fit(n_restarts, **module):
    """Fit from random starts, or from the point the paper studies."""
    net = NeuralNetRegressor(
        toy.module, train_split=None, lr=0.02, max_epochs=20, **module
    )
    model = SolutionSetEstimator(net, n_restarts=n_restarts, random_state=0)
    return model.fit(toy.X, toy.y)


# %%
# Restarts sample the curve ``w1 w2 = 2`` on both branches; each knows that the set
# goes on in one direction, its ``ker H``.
curve = fit(n_restarts=24)
print(curve.solution_set_)
products = curve.solution_set_.weights.prod(axis=1)
print(f"w1 w2 over the restarts: {products.min():.9f} to {products.max():.9f}")

# %%
# At the paper's solution ``w = (1, 2)``:
model = fit(n_restarts=1, module__start=(1.0, 2.0))
predicted = model.sensitivity(toy.X_perturbed)
kappa, size = model.lipschitz_modulus_, np.linalg.norm(toy.dX)
points = predicted.sample(4000, 0.2, random_state=0, center="base")[0]
losses = 2.5 * (2.0 - 0.8 * points.prod(axis=1)) ** 2
near, far = losses.min(), losses.max()
table = [
    ("Lipschitz modulus kappa", f"{kappa:.6f}", '"0.2"'),
    ("radius kappa |dx|", f"{kappa * size:.6f}", "0.178"),
    ("predicted shift |v0|", f"{predicted.shift_norm[0]:.6f}", "0.1746 (numerical)"),
    ("loss on the moved data at w", f"{predicted.base_losses[0]:.6f}", "0.4"),
    ("... at w + v0", f"{predicted.losses[0]:.6f}", "0.012"),
    ("... over the predicted set near w", f"{near:.4f} to {far:.4f}", "around 0.01"),
    ("true distance to the new set", f"{toy.true_distance:.6f}", ""),
]
print(f"\n{'quantity':35s}{'here':>20s}   paper")
for row in table:
    print(f"{row[0]:35s}{row[1]:>20s}   {row[2]}")

# %%
# Why 0.4 and not 0.2: the paper prints the modulus 0.2 beside a radius of 0.178. But
# ``|dx| = 0.2 sqrt(5) = 0.447``, and 0.178 / 0.447 is 0.4, which is also what
# ``|H^+ B|`` gives: H is 5 times the outer product of (2, 1) with itself, of norm 25,
# and B has norm 10. The radius belongs to 0.4, so 0.2 is a misprint (it is the
# perturbation's size).
print(f"\n0.178 / |dx| = {0.178 / size:.3f}")

# %%
# Left, the paper's Figure 2: near w the new set lies within ``kappa |dx|`` of the old
# one, up to second order. At this size the second order is visible: the new curve is
# 0.215 away, the band 0.179 wide; at a tenth of the perturbation 0.0184 against 0.0179.
# Right, its Figure 3: the predicted set is the line ``w + v0 + ker H``, and the part of
# it in the ball around w is where the paper samples its estimated solutions.
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
w1 = np.linspace(0.4, 3.2, 400)
old, new = np.column_stack([w1, 2.0 / w1]), np.column_stack([w1, 2.5 / w1])
normal = old[:, ::-1] / np.linalg.norm(old, axis=1, keepdims=True)
local = np.abs(w1 - 1.0) < 0.35
for ax in (left, right):
    ax.plot(*old.T, color="C0", label="solutions, $w_1 w_2 = 2$")
    ax.plot(*new.T, color="C1", label="solutions on moved data, $w_1 w_2 = 2.5$")
    ax.plot(1, 2, "ko", ms=5)
    ax.annotate(r"$\bar w$", (1, 2), (-14, -10), textcoords="offset points")
    ax.set(xlabel="$w_1$", ylabel="$w_2$", aspect="equal")

band = old[local]
offset = kappa * size * normal[local]
left.fill(
    *np.vstack([band + offset, (band - offset)[::-1]]).T,
    color="C0",
    alpha=0.2,
    lw=0,
    label=r"within $\kappa\,|dx|$ of the old set",
)
left.set(xlim=(0.4, 2.0), ylim=(1.3, 3.1), title="The bound near $\\bar w$")

grid = np.stack(np.meshgrid(np.linspace(0.6, 1.6, 200), np.linspace(1.5, 2.5, 200)))
landscape = 2.5 * (2.0 - 0.8 * grid.prod(axis=0)) ** 2
right.contourf(*grid, np.log10(landscape + 1e-4), levels=12, cmap="Greys_r", alpha=0.5)
right.plot(*points.T, ".", color="C2", ms=2, label="predicted set in the ball")
right.annotate("", predicted.weights[0], (1, 2), arrowprops={"arrowstyle": "->"})
right.plot(*toy.true_nearest, "s", color="C1", label="nearest true solution")
right.add_patch(plt.Circle((1, 2), 0.2, fill=False, ls=":", ec="k"))
right.set(xlim=(0.6, 1.6), ylim=(1.5, 2.5), title="Predicted set over the new loss")
for ax in (left, right):
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
fig.savefig("toy_network.png", dpi=120)
print("picture: toy_network.png, in this folder")
