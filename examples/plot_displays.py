"""
==================================================
Four pictures of what a perturbation does to a net
==================================================

`sksetsens.inspection` draws what the library computes: where the solutions lie and
where they go, how that grows with the perturbation, which inputs do it, and how far the
answer may be trusted. Here is one look at each, for two networks on scikit-learn's
diabetes data: one that fits its data exactly, whose solutions form a manifold, and one
with weight decay, whose solutions stand alone.
"""

# %%
# The data: 442 patients, 10 standardised measurements. 150 of them are enough to see
# all that follows.

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from sksetsens import SolutionSetEstimator
from sksetsens.inspection import (
    HessianSpectrumDisplay,
    LipschitzModulusDisplay,
    SensitivityCurveDisplay,
    SolutionSetDisplay,
)
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)
diabetes = load_diabetes()
X, y = scale(diabetes.data)[:150], scale(diabetes.target)[:150]


def fit(width, weight_decay, n_restarts):
    """Solutions of a perceptron with one smooth hidden layer."""
    net = DFCNNRegressor(
        module__hidden_widths=(width,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=20,
    )
    model = SolutionSetEstimator(
        net,
        n_restarts=n_restarts,
        perturbation="random",
        perturbation_size=0.01,
        random_state=0,
    )
    return model.fit(X, y)


wide, decayed = fit(24, 0.0, 1), fit(16, 0.1, 2)
print(wide.solution_set_)
print(decayed.solution_set_)

fig, axes = plt.subplots(2, 2, figsize=(11.5, 10), layout="constrained")
(top_left, top_right), (bottom_left, bottom_right) = axes
# sphinx_gallery_defer_figures

# %%
# Top left, the net that interpolates. Every row moves by 0.01 in a random direction.
# The plane goes through the old solution, along its predicted shift, and along the
# direction of ker H that retraining took. The old solution lies on the slope of the new
# objective; the predicted set follows the bottom of its valley; retraining stops at a
# point of that valley too, beside the predicted one.
display = SolutionSetDisplay.from_estimator(wide, ax=top_left)
print(f"\npredicted, along the shift     {display.predicted[0, 0]:.4f}")
print(f"retrained, along the shift     {display.retrained[0, 0]:.4f}")
print(f"retrained, along ker H         {display.retrained[0, 1]:.4f}")
print(f"retrained, off this plane      {display.off_plane['retrained']:.4f}")
# sphinx_gallery_defer_figures

# %%
# Top right, its Hessian. 150 rows hold 150 directions of weight space in place, some
# 20 000 times more firmly than others. The other 139 are free, and the gap says that
# there is no doubt about how many they are.
HessianSpectrumDisplay.from_estimator(wide, ax=top_right)
# sphinx_gallery_defer_figures

# %%
# Bottom left, the net with weight decay, in cross-validation: three trainings for the
# predictions at all sizes, and one retraining per size and solution for the truth. The
# hatched sizes are those at which some prediction says of itself that it does not hold.
# The truth leaves the prediction where they begin.
sizes = [0.01, 0.03, 0.1, 0.3, 1.0]
display = SensitivityCurveDisplay.from_estimator(
    decayed, X, y, param_range=sizes, cv=3, ax=bottom_left
)
curve = display.curve
print("\n  size  predicted  retrained    gap  nonlinearity  holds")
for k, size in enumerate(sizes):
    print(
        f"{size:6.2f} {curve.shift_norms[k].mean():10.4f} "
        f"{curve.retrained_shift_norms[k].mean():10.4f} {curve.gaps[k].max():6.3f} "
        f"{curve.nonlinearity[k].max():13.3f}  {not curve.first_order_fails[k].any()}"
    )
# sphinx_gallery_defer_figures

# %%
# Bottom right, what it is fragile to. Each marker is one solution's modulus: how far
# its weights move per unit of perturbation of that feature, at worst. The two
# restarts agree: they are one function, with its hidden units in another order. The
# correlated serum measurements lead.
display = LipschitzModulusDisplay.from_estimator(
    decayed,
    level="feature",
    feature_names=diabetes.feature_names,
    ax=bottom_right,
)
print("\nmost fragile features:", [display.names[part] for part in display.order_[:3]])

fig.savefig("displays.png", dpi=110)
print("\npicture: displays.png, in this folder")
