"""
==================================
A residual network, Table 1 style
==================================

A residual network fits a few hundred images of digits almost exactly. Ten of the images
are then changed a little, along the gradient of their own loss, and the network is no
longer sure of them. Where would the weights have to go? The paper (Wang, Wang and Ban,
arXiv 2412.11057) answers for a ResNet-56 in its Table 1 and Figure 4: one predicted
shift, without training, takes nearly all of the loss back. Here is the same with a
small ResNet, for one core and less than a minute; `benchmarks/bench_resnet.py` does it
with depth 56.
"""

# %%
# The images, and the network. Batch normalisation needs some care: the objective is
# that of the evaluation mode, with running statistics. `TrainAndSettle` trains in the
# usual form first and then with frozen statistics, until the mean loss is small.
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch

from sksetsens import SolutionSetEstimator
from sksetsens.datasets import load_digits_images
from sksetsens.networks import ResNetClassifier, TrainAndSettle

torch.set_num_threads(1)
X, y = load_digits_images(200, random_state=0)
net = ResNetClassifier(
    module__depth=8,
    module__width=8,
    optimizer=torch.optim.SGD,
    optimizer__momentum=0.9,
    optimizer__nesterov=True,
    lr=0.1,
    batch_size=64,
    iterator_train__shuffle=True,
    max_epochs=75,
    callbacks=[TrainAndSettle(15, 15, loss_goal=5e-4)],
)

# %%
# Separable classes have no best weights: larger ones always have a smaller loss, and
# the Hessian fades away. What stays well-posed is the shift that keeps the outputs
# where they were; that is what ``solver="dual"`` computes for such a net, row by row
# where the loss has curvature left, and in full for the rows that move.
#
# The warnings that are silenced here say that these weights are early-stopped, that
# ReLU has kinks, and that the first order alone is rough. All of it is true; the table
# shows what the prediction is worth all the same.
warnings.simplefilter("ignore", UserWarning)
model = SolutionSetEstimator(
    net, n_restarts=1, polish=False, solver="dual", random_state=0
)
model.fit(X, y)
weights = model.solution_set_.weights[0]
objective = model.solution_set_.objectives[0]
print(f"{weights.size} weights, mean loss {objective.untilted().loss(weights):.1e}")


# %%
# Losses in float64, from the differences of the logits: a loss of 1e-6 is lost in
# float32, where it is 1 minus almost 1.
def row_losses(outputs, labels=y):
    others = outputs - np.take_along_axis(outputs, labels[:, None], axis=1)
    np.put_along_axis(others, labels[:, None], -np.inf, axis=1)
    return np.log1p(np.exp(others).sum(axis=1))


# %%
# Ten images that are fitted almost exactly, and the direction in which each one's loss
# grows fastest. All ten move by the same length, found by bisection, such that their
# mean loss becomes 0.0043.
before = row_losses(objective.outputs(weights))
fitted = np.flatnonzero((before > 1e-6) & (before < 1e-5))
points = np.random.default_rng(0).choice(fitted, 10, replace=False)
others = np.setdiff1d(np.arange(len(y)), points)
direction = np.zeros_like(objective.inputs)
direction[points] = objective.input_gradient(weights)[points]
norms = np.linalg.norm(direction[points].reshape(10, -1), axis=1)
direction[points] /= norms[:, None, None, None]

low, high = 0.0, 2.0
for _ in range(20):
    size = (low + high) / 2
    X_moved = objective.inputs + size * direction
    moved = row_losses(objective.outputs(weights, X_moved))
    low, high = (size, high) if moved[points].mean() < 0.0043 else (low, size)

# %%
# The table. The first order is one solve; each correction solves again, at the weights
# that it starts from, for the outputs that are not back yet. `nonlinearity` is their
# share that is left, known without looking at any loss.
print(f"\n10 images moved by {size:.2f} each (pixels from 0 to 1); mean losses:")
print("                 moved  lower by   others  ratio  nonlinearity")
for stage, losses in (("before", before), ("perturbed", moved)):
    print(
        f"{stage:14s} {losses[points].mean():.1e}            "
        f"{losses[others].mean():.1e}"
    )
for n_corrections, stage in enumerate(("first order", "1 correction", "2 corrections")):
    predicted = model.sensitivity(X_moved, n_corrections=n_corrections)
    problem = predicted.objectives[0]
    after = row_losses(problem.outputs(predicted.weights[0]))
    lower = moved[points].mean() / after[points].mean()
    ratio = after[others].mean() / before[others].mean()
    print(
        f"{stage:14s} {after[points].mean():.1e} {lower:8.0f}x   "
        f"{after[others].mean():.1e}  {ratio:.3f}  {predicted.nonlinearity[0]:12.4f}"
    )
print("the paper's ResNet-56, ten images, first order: lower by 73x")

# %%
# Figure 4 of the paper: the loss on the perturbed data in a plane through the original
# weights. The first axis is the predicted shift. The second is a random direction,
# normalised filter by filter (Li et al. 2018, arXiv 1712.09913): each filter's part is
# as long as the filter itself; biases and normalisations stay as they are. Both axes
# are lengths in weight space.
rng = np.random.default_rng(0)
module = model.estimators_[0].module_
across = np.zeros_like(weights)
for name, part in objective.parameter_slices.items():
    shape = module.get_parameter(name).shape
    if len(shape) > 1:
        filters = weights[part].reshape(shape[0], -1)
        noise = rng.standard_normal(filters.shape)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        across[part] = (noise * np.linalg.norm(filters, axis=1, keepdims=True)).ravel()
shift = predicted.shift[0]
length = predicted.shift_norm[0]
along, across = shift / length, across / np.linalg.norm(across)


def landscape(rows, n_along, n_across):
    """Logarithms of the rows' mean loss over the plane, with its two axes."""
    a = length * np.linspace(-0.5, 1.5, n_along)
    b = 3 * length * np.linspace(-1, 1, n_across)
    values = np.empty((n_across, n_along))
    for i, j in np.ndindex(values.shape):
        at = weights + a[j] * along + b[i] * across
        values[i, j] = row_losses(problem.outputs(at, X_moved[rows]), y[rows]).mean()
    return a, b, np.log10(values)


# %%
# On the left the loss of the ten moved images: the shift leads down three decades, to
# the dashed line, where it was before they were moved. On the right that of all 200:
# the way leads along the floor of a valley, so that the others lose nothing.
panels = {
    "The ten moved images": landscape(points, 25, 25),
    "All 200 images": landscape(np.arange(len(y)), 15, 11),
}
fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
for ax, (title, (a, b, values)) in zip(axes, panels.items(), strict=True):
    levels = np.linspace(values.min(), values.max(), 17)
    filled = ax.contourf(a, b, values, levels, cmap="viridis")
    ax.contour(a, b, values, levels, colors="w", linewidths=0.4, alpha=0.5)
    ax.annotate("", (length, 0), (0, 0), arrowprops={"arrowstyle": "->", "color": "w"})
    ax.plot(0, 0, "o", color="w", mec="k", ms=8, label="original weights")
    ax.plot(length, 0, "*", color="C1", mec="k", ms=14, label="predicted weights")
    ticks = np.arange(np.ceil(levels[0]), levels[-1])
    bar = fig.colorbar(filled, ax=ax, ticks=ticks)
    bar.ax.set_yticklabels([f"$10^{{{tick:.0f}}}$" for tick in ticks])
    bar.set_label("mean loss on the perturbed data")
    ax.set(xlabel="along the predicted shift", title=title)
a, b, values = panels["The ten moved images"]
unmoved = np.log10(before[points].mean())
axes[0].contour(a, b, values, [unmoved], colors="w", linestyles="--")
axes[0].plot([], [], "--", color="w", label="loss before they were moved")
axes[0].set_ylabel("along a random direction, filter-normalised")
axes[0].legend(loc="lower left", facecolor="0.4", labelcolor="w", fontsize=8)
fig.savefig("resnet56.png", dpi=120)
print("\npicture: resnet56.png, in this folder")
