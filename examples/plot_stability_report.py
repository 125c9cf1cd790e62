"""
============================================
A stability report, before you train again
============================================

A classifier was trained, and now its training data turns out to be a little wrong. How
far would training again move the model? The report answers from the trained network
alone. We read one, compare three kinds of perturbation of one size, and then retrain
to see over which sizes the report can be believed.
"""

# %%
# The data: 178 wines from three growers, 13 chemical measurements each; a third is held
# out. The network sits behind a scaler in a pipeline, as it would in practice. Weight
# decay gives it a minimum to speak of: without one, the losses of separable classes
# only tend to 0.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksetsens import (
    SolutionSetEstimator,
    linear_range,
    set_convergence,
    stability_report,
)
from sksetsens.networks import DFCNNClassifier

torch.set_num_threads(1)
wine = load_wine()
X, X_test, y, y_test = train_test_split(
    wine.data, wine.target, test_size=1 / 3, random_state=0, stratify=wine.target
)
net = DFCNNClassifier(
    module__hidden_widths=(8,),
    module__activation="tanh",
    module__bias=True,
    module__train_output=True,
    optimizer__weight_decay=0.03,
    max_epochs=20,
)
pipeline = make_pipeline(
    StandardScaler(), SolutionSetEstimator(net, n_restarts=2, random_state=0)
)
pipeline.fit(X, y)
scaler, model = pipeline
solutions = model.solution_set_
print(solutions)
print(f"losses {solutions.losses.round(4)}")
print(f"accuracy on held-out wines {pipeline.score(X_test, y_test):.3f}")

# %%
# Suppose that the alcohol of the first 40 wines had been read 0.1 % vol too high.
# The pipeline takes the corrected data in its own units and sends it through the
# fitted scaler.
X_corrected = X.copy()
X_corrected[:40, wine.feature_names.index("alcohol")] -= 0.1
report = stability_report(pipeline, X_corrected)
print(f"\nalcohol corrected: {report}")

# %%
# The two restarts ended in two different minima, and the report has a line for each.
# `distance` is how far the weights would move, and `bound` how far any error of the
# same size could have moved them, to first order; `slack` is the difference. `holds to`
# is the share of the perturbation up to which the first order errs by no more than a
# tenth; the sentences below the table say what was measured. In terms of predictions:
change = report.predicted.prediction_change(scaler.transform(X_test))
print(f"largest change of a probability {np.abs(change.value).max():.4f}")

# %%
# Three perturbations of one size, 0.03 standard deviations per wine: in random
# directions, in those that raise the loss most, and in those that move the solution
# most.
model.set_params(perturbation_size=0.03)
for direction in ("random", "gradient", "worst_case"):
    X_perturbed = model.set_params(perturbation=direction).perturb()
    print(f"\n{direction}: {stability_report(model, X_perturbed)}")

# %%
# What raises the loss most is far from what moves the solution most: a model's training
# has weak spots of its own.
#
# Now other sizes, against retraining, for the minimum of lower loss. `linear_range`
# says how far along each direction the first order holds, without retraining.
best = int(solutions.losses.argmin())
sizes = np.geomspace(0.003, 0.3, 7)
found, ranges = {}, {}
print("\ndirection     size    bound  predicted  retrained    gap")
for direction in ("worst_case", "gradient", "random"):
    model.set_params(perturbation=direction)
    found[direction] = []
    for size in sizes:
        X_perturbed = model.set_params(perturbation_size=size).perturb()
        r = stability_report(model, X_perturbed)
        retrained = model.retrain(X_perturbed).weights[best]
        bound, predicted = r.bound[best], r.distance[best]
        moved = np.linalg.norm(retrained - solutions.weights[best])
        gap = np.linalg.norm(retrained - r.predicted.weights[best]) / predicted
        found[direction].append((bound, predicted, moved, gap))
        print(
            f"{direction:10s} {size:7.3f} {bound:8.4f} {predicted:10.4f} {moved:10.4f} "
            f"{gap:6.3f}"
        )
    # Asked with the largest size: the range is a share of it.
    ranges[direction] = linear_range(model, X_perturbed).size_per_row[best]
print("linear_range, to an error of a tenth")
for direction, size in ranges.items():
    print(f"{direction:10s} {size:7.3f} per wine")

# %%
# Do the sets of solutions converge as the data does, and how fast? Along the worst
# direction, retrained at four sizes. (The radius only matters where solutions form a
# manifold; these are isolated.)
model.set_params(perturbation="worst_case", perturbation_size=0.03)
worst = model.perturb() - model.X_train_
sequence = [model.X_train_ + share * worst for share in (1, 0.3, 0.1, 0.03)]
convergence = set_convergence(model, sequence, radius=0.01)
print(f"\nalong the worst direction, the set {convergence.status[best]}")

# %%
# One picture. On the left the movement itself: lines are predictions, circles the
# truth. On the right, how far apart they are: it grows in proportion to the size, as
# it must where the error is of second order. The diamonds are what `linear_range`
# foresaw for a tenth without retraining: on the safe side, since it takes the worse of
# two measures of the error.
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
left.loglog(sizes, np.array(found["random"])[:, 0], color="0.85", lw=8)
left.text(0.021, 0.16, r"bound $\kappa\,|dx|$", color="0.45", ha="right")
colors = {"worst_case": "C3", "gradient": "C1", "random": "C0"}
for direction, color in colors.items():
    _, predicted, moved, gap = np.array(found[direction]).T
    left.loglog(sizes, predicted, color=color)
    left.loglog(sizes, moved, "o", color=color, mfc="w")
    name = direction.replace("_", " ")
    left.text(sizes[-1] * 1.2, predicted[-1], name, color=color, va="center")
    right.loglog(sizes, gap, "o-", color=color, mfc="w", lw=1)
    right.loglog(ranges[direction], 0.1, "D", color=color, mec="k", ms=8, zorder=3)
right.axhline(0.1, color="0.7", lw=1, zorder=0)
left.plot([], [], color="0.3", label="predicted")
left.plot([], [], "o", color="0.3", mfc="w", label="retrained")
left.legend(frameon=False, loc="lower right")
right.plot([], [], "o-", color="0.3", mfc="w", lw=1, label="measured by retraining")
right.plot(
    [], [], "D", color="0.8", mec="k", ms=8, label="linear_range, without retraining"
)
right.legend(frameon=False, loc="lower right")
left.set(
    xlim=(None, sizes[-1] * 3.5),
    ylabel="movement of the weights (norm)",
    title="How far training moves",
)
right.set(
    ylabel="distance from the prediction / predicted movement",
    title="How wrong the prediction is",
)
for ax in (left, right):
    ax.set_xlabel("perturbation per wine (standard deviations)")
fig.savefig("stability_report.png", dpi=120)
print("\npicture: stability_report.png, in this folder")
