"""
===========================================================
An audit: how little would poison the model for a patient?
===========================================================

Who can write to a part of the training data can steer the model. How much they would
have to change tells how exposed the model is: the smaller the needed change, the easier
to poison. `target_perturbation` asks the sensitivity question backwards: it takes the
wanted change of a prediction, or of the weights, and answers with the smallest change
of the training data that brings it about, to first order. Then it verifies the answer
by retraining.
"""

# %%
# The diabetes data: 350 patients to train on, and one held-out patient whose predicted
# progression is at stake. Progression is told in points of its original scale.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from sksetsens import SolutionSetEstimator, target_perturbation
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)
diabetes = load_diabetes()
points = diabetes.target.std()  # one standard deviation
X, y = scale(diabetes.data), scale(diabetes.target)
X, patient, y = X[:350], X[350:351], y[:350]

net = DFCNNRegressor(
    module__hidden_widths=(16,),
    module__activation="tanh",
    module__bias=True,
    module__train_output=True,
    optimizer__weight_decay=0.1,
    max_epochs=20,
)
model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
before = model.predict(patient)[0]
print(f"predicted progression    {diabetes.target.mean() + before * points:.0f} points")

# %%
# What would raise this prediction by 10 points, if every entry of the training data
# could be changed?
audit = {"X": patient, "prediction_change": [10 / points]}
everything = target_perturbation(model, **audit)
print(f"\nall rows: {everything.status}")
print(f"total size (norm)        {everything.size:.3f} standard deviations")
print(f"largest change of a row  {everything.size_per_row.max():.3f}")

# %%
# A small change of all rows does it. It is not spread evenly, and tells which rows have
# the most influence on this prediction.
influential = np.argsort(everything.size_per_row)[::-1]
print(f"most influential rows    {influential[:5]}")

# %%
# Real attackers own a few rows, and perhaps a few of their columns: a clinic that
# contributes its patients, or a scale and a blood pressure monitor that can be
# tampered with. Three of them, by the number of rows that they control. Changes that
# large are beyond the first order: `n_corrections` retrains, measures what is missing,
# and adds it.
columns = [diabetes.feature_names.index(name) for name in ("bmi", "bp")]
anyone = np.random.RandomState(0).permutation(len(X))
attackers = {
    "any rows, bmi and bp only": (anyone, columns),
    "any rows": (anyone, None),
    "the most influential rows": (influential, None),
}
budgets = [10, 20, 50, 150, 350]
needed, missed = {}, {}
print("\nattacker                    rows  size per row  missed after retraining")
for attacker, (rows, features) in attackers.items():
    answers = [
        target_perturbation(
            model, **audit, rows=rows[:budget], features=features, n_corrections=2
        )
        for budget in budgets
    ]
    needed[attacker] = np.array([a.size for a in answers]) / np.sqrt(budgets)
    missed[attacker] = np.array([a.error for a in answers])
    for line in zip(budgets, needed[attacker], missed[attacker], strict=True):
        print("{:26s}{:6d}{:14.3f}{:15.1%}".format(attacker, *line))

# %%
# An attacker of few rows and columns would have to write numbers that no patient has;
# and where the last column is not small, even these are no attack, since no short way
# leads there. With more rows the changes get smaller, and with the right rows they are
# smaller still. For an audit: the fewer rows one source contributes the better, and the
# influential ones are worth a second look.
#
# Is the answer true? We ask for various changes from the owner of the 20 most
# influential rows, and retrain on what is proposed.
asked = np.array([-40, -20, -10, 10, 20, 40])
achieved = {0: [], 2: []}
for change in asked:
    for n_corrections, values in achieved.items():
        answer = target_perturbation(
            model,
            X=patient,
            prediction_change=[change / points],
            rows=influential[:20],
            n_corrections=n_corrections,
            verify=False,
        )
        retrained = model.retrain(answer.X_perturbed)
        values.append((retrained.predict(patient)[0, 0] - before) * points)
print("\nasked, points " + "".join(f"{change:7d}" for change in asked))
for n_corrections, values in achieved.items():
    print(f"{n_corrections} corrections " + "".join(f"{v:7.1f}" for v in values))

# %%
# The same from scratch, with another start: not a property of one training run.
answer = target_perturbation(model, **audit, rows=influential[:20], n_corrections=2)
fresh = SolutionSetEstimator(net, n_restarts=1, random_state=1)
after = fresh.fit(answer.X_perturbed, y).predict(patient)[0]
print(f"10 points asked, trained from scratch: {(after - before) * points:.2f}")

# %%
# The target may also be the weights themselves: here those that the model would have if
# the outcomes of 20 patients had been higher by 5 points. Could an attacker who cannot
# touch outcomes get the same model, by changing these patients' measurements alone?
y_other = y.copy()
y_other[:20] += 5 / points
target = model.retrain(X, y_other).weights[0]
answer = target_perturbation(model, target, rows=np.arange(20), n_corrections=1)
print(f"\nto the other model's weights: {answer.status}")
print(f"distance of the weights  {answer.requested:.4f}")
print(f"largest change of a row  {answer.size_per_row.max():.3f} standard deviations")

# %%
# They could, very nearly. One picture of the audit:
fig, (left, right) = plt.subplots(
    1, 2, figsize=(10.5, 4.4), layout="constrained", width_ratios=(1.35, 1)
)
for (attacker, sizes), marker in zip(needed.items(), "s^o", strict=True):
    reached = missed[attacker] < 0.01
    (line,) = left.loglog(
        budgets, np.where(reached, sizes, np.nan), marker + "-", label=attacker
    )
    if not reached.all():
        left.loglog(
            np.array(budgets)[~reached],
            sizes[~reached],
            marker,
            color=line.get_color(),
            mfc="w",
            label="... and missed by over 1 %",
        )
left.set(
    xlabel="rows that the attacker controls",
    ylabel="needed change per row\n(root mean square, standard deviations)",
    title="Needed for +10 points",
)
left.set_xticks(budgets, budgets)
ticks = [0.05, 0.1, 0.2, 0.5, 1, 2, 5]
left.set_yticks(ticks, ticks)
left.minorticks_off()
left.legend(frameon=False)
right.axline((0, 0), slope=1, color="0.7", lw=1)
right.plot(asked, achieved[0], "o", ms=10, color="C1", mfc="none", label="first order")
right.plot(asked, achieved[2], ".", color="C0", label="corrected twice")
right.set(
    aspect="equal",
    xlim=(-45, 45),
    ylim=(-45, 45),
    xlabel="change asked for (points)",
    ylabel="change after retraining (points)",
    title="Verified, 20 influential rows",
)
right.legend(frameon=False, loc="upper left")
fig.savefig("poisoning_target.png", dpi=120)
print("\npicture: poisoning_target.png, in this folder")
