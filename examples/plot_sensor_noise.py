"""
==========================================================
Sensor noise: how sure is a model trained on measurements?
==========================================================

Thirteen instruments measured 178 wines, and none of them is exact. Had the same wines
been measured again, the training data would have been a little different, and so would
the model. How different would its predictions be, and which instrument should be
replaced first? The Hessian, which is factorised once, answers for each repetition at a
small part of the time that training takes.
"""

# %%
# A pipeline in the units of the instruments. Each reading errs by half a per cent.
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksetsens import SolutionSetEstimator, sensitivity
from sksetsens.networks import DFCNNClassifier

torch.set_num_threads(1)
wine = load_wine()
X, X_test, y, y_test = train_test_split(
    wine.data, wine.target, test_size=58, random_state=0, stratify=wine.target
)
net = DFCNNClassifier(
    module__hidden_widths=(6,),
    module__activation="tanh",
    module__bias=True,
    module__train_output=True,
    optimizer__weight_decay=0.1,
    max_epochs=20,
)
pipeline = make_pipeline(
    StandardScaler(), SolutionSetEstimator(net, n_restarts=3, random_state=0)
).fit(X, y)
scaler, model = pipeline[0], pipeline[-1]
before = pipeline.predict_proba(X_test)
print(f"accuracy on held-out wines: {pipeline.score(X_test, y_test):.3f}")

# %%
# Measure the training wines again, a hundred times. `sensitivity` of the pipeline
# sends the data through the scaler that was fitted before; each prediction says whether
# it may be trusted.
rng = np.random.RandomState(0)


def measured_again(columns=slice(None)):
    noise = np.zeros(X.shape)
    noise[:, columns] = 0.005 * X[:, columns]
    return X + noise * rng.standard_normal(X.shape)


def predicted_change(X_new):
    """Change of the class probabilities of held-out wines, and whether to trust it."""
    predicted = sensitivity(pipeline, X_new)
    after = predicted.predict(scaler.transform(X_test)).mean(axis=0)
    return after - before, predicted.trustworthy.all()


start = time.perf_counter()
repetitions = [measured_again() for _ in range(100)]
changes, trusted = zip(*map(predicted_change, repetitions), strict=True)
spread = np.std(changes, axis=0)
seconds = (time.perf_counter() - start) / len(repetitions)
print(f"\n{sum(trusted)} of {len(trusted)} predictions may be trusted")
print(f"seconds each: {seconds:.3f}")

# %%
# Compare with the truth for a few of them: train on the new measurements.
start = time.perf_counter()
truth = []
for X_new in repetitions[:8]:
    retrained = model.retrain(scaler.transform(X_new))
    after = retrained.predict(scaler.transform(X_test)).mean(axis=0)
    truth.append(after - before)
seconds = (time.perf_counter() - start) / len(truth)
error = np.linalg.norm(np.array(truth) - changes[:8]) / np.linalg.norm(truth)
print(f"seconds each, retraining from the old weights: {seconds:.3f}")
print(f"error of the predicted changes: {error:.1%}")

# %%
# Which wines are in doubt? Those whose probability moves most. Before worrying, compare
# the movement with the distance to the next class.
best = before.argmax(axis=1)
confidence = before[np.arange(len(before)), best]
doubt = spread[np.arange(len(before)), best]
print("\nthe three held-out wines that depend most on the noise")
for i in np.argsort(-doubt)[:3]:
    print(f"  class {best[i]}: probability {confidence[i]:.3f} +- {doubt[i]:.3f}")

# %%
# Which instrument is to blame? Let one of them err at a time. An error of the reading
# weighs most where readings hardly differ: alcohol is between 11 and 15 % in all wines.
shares = []
for j in range(X.shape[1]):
    alone = [predicted_change(measured_again([j]))[0] for _ in range(10)]
    shares.append(np.sqrt(np.mean(np.square(alone))))
order = np.argsort(shares)
worst = wine.feature_names[order[-1]]
print(f"\nthe instrument to replace first: {worst}")

# %%
# The picture.
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
limit = 1.1 * np.abs(truth).max()
left.axline((0, 0), slope=1, color="0.7", lw=1)
left.plot(np.ravel(truth), np.ravel(changes[:8]), ".", color="C0", ms=4)
left.set(
    xlim=(-limit, limit),
    ylim=(-limit, limit),
    aspect="equal",
    xlabel="change by retraining",
    ylabel="predicted change",
    title="Class probabilities of held-out wines",
)
names = [wine.feature_names[j].replace("/", "/\n") for j in order]
right.barh(names, np.array(shares)[order], color="C0")
right.set(
    xlabel="change of a probability (root mean square)",
    title="One instrument off by 0.5 %",
)
right.locator_params(axis="x", nbins=4)
right.tick_params(axis="y", labelsize=8)
fig.savefig("sensor_noise.png", dpi=120)
print("\npicture: sensor_noise.png, in this folder")
