"""
==================================================
Unlearning: patients who withdraw their consent
==================================================

Some patients' rows must go. What would the net be without them, without training it
anew? One by one, as a group, and along a path; and checked by retraining.
"""

# %%
# The breast cancer data, 30 measurements per patient.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale
from skorch import NeuralNetClassifier
from torch import nn

from sksetsens import SolutionSetEstimator, follow_path, sample_influence

torch.set_num_threads(1)
X, y = load_breast_cancer(return_X_y=True)
X = scale(X)
X, X_test, y, y_test = X[:400], X[400:], y[:400], y[400:]


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(30, 8), nn.GELU(), nn.Linear(8, 2))

    def forward(self, X):
        return self.layers(X)


net = NeuralNetClassifier(
    MLP,
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    optimizer__weight_decay=0.01,
    lr=0.01,
    max_epochs=60,
    train_split=None,
    verbose=0,
)
model = SolutionSetEstimator(net, n_restarts=2, random_state=0).fit(X, y)
print(f"accuracy on held-out patients: {model.score(X_test, y_test):.3f}")

# %%
# Which patients drive one prediction? The least certain one of the held-out patients.
# Every estimate comes with its error; where that is large, retraining says what is so.
probability = model.predict_proba(X_test)[:, 1]
patient = int(np.argmin(np.abs(probability - 0.5)))
influence = sample_influence(model, X_test[[patient]], of="prediction")
change = influence.mean[0, :, 1]
strongest = np.argsort(-np.abs(change))[:5]
truth = sample_influence(
    model, X_test[[patient]], of="prediction", samples=strongest, method="retrain"
)
print(f"P(benign) of patient {patient}: {probability[patient]:.3f}")
for row, retrained in zip(strongest, truth.mean[0, :, 1], strict=True):
    kind = ("malignant", "benign")[y[row]]
    sure = "trusted" if influence.trustworthy[:, row].all() else "not trusted"
    told = f"{change[row]:+.3f} ({sure}), retrained {retrained:+.3f}"
    print(f"without row {row} ({kind}): {told}")

# %%
# Twenty patients withdraw. A Gauss-Newton step on the rows that are left, retraining,
# and a path along which their weight goes to 0.
gone = np.random.default_rng(0).choice(len(X), 20, replace=False)
weights = np.ones(len(X))
weights[gone] = 0.0
ways = {
    method: sample_influence(
        model, X_test, of="prediction", groups=[gone], method=method
    )
    for method in ("first_order", "gauss_newton", "retrain")
}
for method, found in ways.items():
    told = f"trusted: {found.trustworthy[:, 0]}"
    print(f"{method:13s} movement {found.shift_norm[:, 0].round(3)}, {told}")
path = follow_path(model, sample_weight=weights)
print("the path arrives:", path.arrived, "in", path.n_steps, "steps")

# %%
# The predictions of all held-out patients: estimated against retrained.
fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained", sharey=True)
truth = ways["retrain"].mean[:, 0, 1]
for ax, method in zip(axes, ("first_order", "gauss_newton"), strict=True):
    found = ways[method].mean[:, 0, 1]
    ax.plot(truth, found, ".")
    ends = [min(truth.min(), found.min()), max(truth.max(), found.max())]
    ax.plot(ends, ends, color="0.6", linewidth=0.8)
    correlation = np.corrcoef(truth, found)[0, 1]
    name = {"first_order": "first order", "gauss_newton": "Gauss-Newton"}[method]
    print(f"{method:13s} correlation with retraining {correlation:.3f}")
    ax.set(
        xlabel="change of P(benign) by retraining",
        title=f"{name}: correlation {correlation:.3f}",
    )
axes[0].set_ylabel("predicted change")
fig.suptitle("Twenty patients left out: predictions for 169 others")
fig.savefig("unlearning.png", dpi=120)
print("\npicture: unlearning.png, in this folder")
