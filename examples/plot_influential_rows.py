"""
===================================================
Which rows does a disputed prediction hang on?
===================================================

Two nets of one solution set may disagree about a digit. Which of the training rows are
behind that, and what would the prediction be without them? `sample_influence` answers
for all rows at once, from the factorisation of the fit; retraining checks it.
"""

# %%
# Three hundred digits, a small net with weight decay, two restarts.

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

from sksetsens import SolutionSetEstimator, sample_influence
from sksetsens.inspection import SampleInfluenceDisplay

torch.set_num_threads(1)
X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = X[:300] / 16, X[300:] / 16, y[:300], y[300:]


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))

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
print(f"accuracy on held-out digits: {model.score(X_test, y_test):.3f}")
print(model.solution_set_.status[0])

# %%
# The most disputed of the held-out digits: the one whose two best classes are nearest.
probabilities = model.predict_proba(X_test)
best = np.sort(probabilities, axis=1)
disputed = int(np.argmin(best[:, -1] - best[:, -2]))
first, second = np.argsort(-probabilities[disputed])[:2]
print(f"digit {y_test[disputed]}, taken for {first} or {second}")

# %%
# What leaving out each of the 300 rows does to the probability of the first class.
influence = sample_influence(model, X_test[[disputed]], of="prediction")
change = influence.mean[0, :, first]
print(f"rows whose answer is trusted: {influence.trustworthy.mean():.0%}")
order = np.argsort(change)
for row in [*order[:3], *order[-3:]]:
    print(f"without row {row:3d}, a {y[row]}: {change[row]:+.4f}")

# %%
# Is it true? Leave out the twelve rows that matter most, one by one, and train on.
rows = np.concatenate([order[:6], order[-6:]])
truth = sample_influence(
    model, X_test[[disputed]], of="prediction", samples=rows, method="retrain"
)
retrained = truth.mean[0, :, first]
print(f"rank correlation with retraining: {spearmanr(change[rows], retrained)[0]:.2f}")

# %%
# The rows, with each solution's own answer; and the digits themselves.
fig = plt.figure(figsize=(10, 4.4), layout="constrained")
left, right = fig.subfigures(1, 2, width_ratios=(1.5, 1))
ax = left.subplots()
SampleInfluenceDisplay.from_influence(
    influence, what=f"probability of {first}", output=int(first), ax=ax, n_shown=12
)
ax.scatter(retrained, np.arange(12), marker="x", color="C3", label="retrained")
ax.legend(frameon=False)
axes = right.subplots(2, 2)
shown = [
    (X_test[disputed], f"disputed: {first} or {second}"),
    (X[order[0]], f"supports {first}: row {order[0]}"),
    (X[order[-1]], f"against {first}: row {order[-1]}"),
    (X[order[-2]], f"against {first}: row {order[-2]}"),
]
for ax, (digit, title) in zip(axes.flat, shown, strict=True):
    ax.imshow(digit.reshape(8, 8), cmap="gray_r")
    ax.set_title(title, fontsize="small")
    ax.set_axis_off()
fig.savefig("influential_rows.png", dpi=120)
print("\npicture: influential_rows.png, in this folder")
