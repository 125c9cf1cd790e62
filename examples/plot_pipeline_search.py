"""
====================================================
How noisy may the data become? A search over sizes
====================================================

A model is trained on measurements that will not stay as clean as they are. How much may
they move before it predicts noticeably worse? The question is a grid search over
``perturbation_size``: a pipeline with a scaler, a few folds, a few sizes. Sizes do not
change the training, so that with ``memory`` each restart of a fold trains once, for
all sizes.
"""

# %%
# The diabetes data in the units in which it was measured. The scaler is part of the
# pipeline, and perturbations are those of its output: the size is the Euclidean length
# by which each row of ten standardised features moves. A length of 0.2 is a move of
# 0.06 standard deviations per feature.
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler, scale

from sksetsens import SolutionSetEstimator
from sksetsens.metrics import make_sensitivity_scorer, perturbed_score
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)
X, y = load_diabetes(return_X_y=True, scaled=False)
y = scale(y)

net = DFCNNRegressor(
    module__hidden_widths=(5,),
    module__activation="tanh",
    module__bias=True,
    module__train_output=True,
    optimizer__weight_decay=0.1,
    max_epochs=5,
)
memory = tempfile.TemporaryDirectory()
model = SolutionSetEstimator(
    net, n_restarts=2, perturbation="gradient", memory=memory.name, random_state=0
)
pipeline = Pipeline([("scale", StandardScaler()), ("model", model)])

# %%
# Three things are scored on each fold. ``perturbed_score`` is R2 on the fold's held-out
# rows if every training row had moved by this size, along the gradient of its own loss,
# the direction in which it grows fastest; "corrected" is the same after one Newton step
# on the perturbed problem. The last one asks whether "corrected" may be believed,
# without training: by which share of the movement the next step would change it.
sizes = np.array([0.0, 0.05, 0.1, 0.2, 0.3, 0.5])


def largest_error(predicted):
    return predicted.shift_error.max()


scoring = {
    "score": perturbed_score,
    "corrected": make_sensitivity_scorer(n_corrections=1),
    "error": make_sensitivity_scorer(largest_error, n_corrections=1),
}


# %%
# The best size is not the one with the best score, which is no perturbation at all, but
# the largest one that costs at most 0.02 of R2 and is still predicted reliably. As in
# any search of scikit-learn, ``refit`` may be a function that says so.
def largest_affordable(results):
    score = results["mean_test_corrected"]
    affordable = score >= score[0] - 0.02
    reliable = results["mean_test_error"] < 0.2
    return int(np.flatnonzero(affordable & reliable)[-1])  # sizes are in order


search = GridSearchCV(
    pipeline,
    {"model__perturbation_size": sizes},
    scoring=scoring,
    refit=largest_affordable,
    cv=3,
)
for label in ("first search", "the same again"):
    start = time.perf_counter()
    search.fit(X, y)
    trained = len(list(Path(memory.name).rglob("*.npz")))
    print(f"{label}: {time.perf_counter() - start:.1f} s, {trained} trainings so far")

results = search.cv_results_
columns = [results[f"mean_test_{name}"] for name in scoring]
print("\n size     R2  corrected  error of the movement")
for size, r2, corrected, error in zip(sizes, *columns, strict=True):
    print(f"{size:5.2f}  {r2:.3f}      {corrected:.3f}                  {error:.3f}")
affordable = search.best_params_["model__perturbation_size"]
print(f"each row may move by a length of {affordable}")


# %%
# Is that so? Perturb each fold's training data for real, and train on it. The truth
# costs one more training per size and fold; here it continues from the old weights.
def retrained_r2(estimator, X, y):
    final, held_out = estimator[-1], estimator[:-1].transform(X)
    return final.score_of(final.retrain(final.perturb()), held_out, y)


truth = GridSearchCV(
    pipeline, search.param_grid, scoring=retrained_r2, refit=False, cv=3
).fit(X, y)

# %%
# The picture: score and reliability against the size. Folds differ much more than sizes
# do: what is drawn is the change from each fold's own unperturbed score. At the largest
# size one Newton step is lost; the error estimate says so.
folds = range(search.n_splits_)
first, corrected, retrained = (
    np.stack([table[f"split{i}_test_{name}"] for i in folds], axis=1)
    for table, name in (
        (results, "score"),
        (results, "corrected"),
        (truth.cv_results_, "score"),
    )
)
fig, (upper, lower) = plt.subplots(
    2, 1, figsize=(6.4, 6.2), sharex=True, height_ratios=(3, 2), layout="constrained"
)
for values, style, label in (
    (first, "C1--^", "predicted, first order"),
    (corrected, "C0-o", "predicted, corrected once"),
):
    fall = (values - values[0]).mean(axis=1)
    upper.plot(sizes, fall, style, label=label)
fall = retrained - retrained[0]
upper.errorbar(
    sizes,
    fall.mean(axis=1),
    fall.std(axis=1),
    fmt="ks",
    mfc="none",
    ms=9,
    capsize=3,
    label="retrained (bars: deviation over folds)",
)
upper.axhline(-0.02, color="0.5", ls=":")
upper.annotate("affordable", (0, -0.02), va="bottom", color="0.35")
upper.set(
    ylim=(-0.1, 0.012),  # one step of Newton's method is lost beyond
    ylabel="change of held-out R2 (mean over folds)",
    title="What moving the training data costs",
)
upper.legend(frameon=False, loc="lower left")
lower.plot(sizes, results["mean_test_error"], "C0-o")
lower.axhline(0.2, color="0.5", ls=":")
lower.annotate("reliable below", (0, 0.2), va="bottom", color="0.35")
for ax in (upper, lower):
    ax.axvline(affordable, color="0.75", lw=6, zorder=0)
lower.set(
    xlabel="length by which each row moves (ten standardised features)",
    ylabel="error of the movement,\nestimated without training",
)
fig.savefig("pipeline_search.png", dpi=120)
print("\npicture: pipeline_search.png, in this folder")
memory.cleanup()
