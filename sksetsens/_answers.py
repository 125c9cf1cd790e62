"""What a fitted set of solutions answers: shifts, moduli, perturbed data, the truth."""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._progress import bars
from ._validation import check_count
from .moduli import (
    Modulus,
    PartModuli,
    dataset_modulus,
    feature_moduli,
    group_moduli,
    layer_moduli,
    modulus,
    sample_moduli,
    target_modulus,
)
from .objective import memory_explained
from .perturbation import ask, perturb_data
from .sensitivity import predict_set
from .sets import PredictedSolutionSet, SolutionSet
from .studies import StabilityReport, stability_report
from .training import continue_solutions, keep_successful, linearise_restarts

__all__ = ["SensitivityMixin"]

_MODULI = {
    "dataset": dataset_modulus,
    "sample": sample_moduli,
    "feature": feature_moduli,
    "layer": layer_moduli,
    "target": target_modulus,
}


class SensitivityMixin:
    """Sensitivity, moduli and retraining of a fitted `SolutionSetEstimator`.

    The estimator stores what training made: the task, the solution set and the
    factorised derivatives. Everything here reads them and changes nothing but caches.
    """

    def sensitivity(
        self, X_perturbed, y_perturbed=None, *, n_corrections=0
    ) -> PredictedSolutionSet:
        """Predict the set of solutions on perturbed training data, not retraining.

        Parameters
        ----------
        X_perturbed : array-like of the shape of the training X
            Rows that differ from the training data are the perturbed ones.

        y_perturbed : array-like of the shape of the training y, default=None
            Perturbed targets of a regressor.

        n_corrections : int, default=0
            Newton (Gauss-Newton in the dual) steps on the residual of the perturbed
            problem after the first-order prediction. With at least one, the affine
            pieces are those at the corrected weights.

        Returns
        -------
        predicted : PredictedSolutionSet

        Raises
        ------
        ValueError
            If a shape differs, an entry is not finite, or class labels changed.

        Warns
        -----
        NonlinearityWarning
            If the perturbation is outside the range of the first order.
        IllPosedWarning
            If the predicted set is empty, or the rank of H changes.
        DataConversionWarning
            If the dtype of ``X_perturbed`` cannot hold the training data.
        """
        question = ask(self, X_perturbed, y_perturbed, caller="sensitivity")
        check_count("sensitivity", "n_corrections", n_corrections, low=0)
        with memory_explained("sensitivity"), bars(self.verbose):
            return predict_set(question, n_corrections=n_corrections, warn=True)

    def stability_report(
        self, X_perturbed, y_perturbed=None, *, tol=0.1
    ) -> StabilityReport:
        """How far each solution moves, at worst too, and whether that may be trusted.

        Parameters
        ----------
        X_perturbed, y_perturbed
            As in `sensitivity`.

        tol : float, default=0.1
            Error of the first order that ``holds_to`` refers to, in (0, 1].

        Returns
        -------
        report : StabilityReport
            Shown as a short table, in notebooks as HTML.
        """
        return stability_report(self, X_perturbed, y_perturbed, tol=tol)

    def perturb(self, X=None, y=None):
        """Perturbed data by `perturbation`, `perturbation_size`, `perturbed_fraction`.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), default=None
            Data to perturb; None for the training data.

        y : array-like of shape (n_samples,), default=None
            Its targets, needed for "gradient" and callables.

        Returns
        -------
        X_perturbed : ndarray of the shape of X, float64
            The same at every call: drawn from a seed fixed at fit. At the end of a
            pipeline these are transformed data, for this estimator's `sensitivity`.
        """
        check_is_fitted(self)
        self._check_parameters()
        return perturb_data(self, X, y)

    def _worst_modulus(self, rows) -> Modulus:
        """The largest modulus over the solutions where only some rows move.

        Kept: sizes come and go, as in a search or a curve, the direction stays.
        """
        kept, key = self._worst_moduli, rows.tobytes()
        if key not in kept:
            moduli = [modulus(gd, rows) for gd in self.graphical_derivatives_]
            kept[key] = max(moduli, key=lambda m: m.value)
        return kept[key]

    @property
    def graphical_derivatives_(self):
        """Graphical derivative at each solution, a list of `GraphicalDerivative`."""
        check_is_fitted(self)
        return self._linearisation.derivatives

    @property
    def lipschitz_moduli_(self):
        """Lipschitz modulus at each solution, computed at first access."""
        return self._moduli_table("dataset")[:, 0]

    @property
    def lipschitz_modulus_(self):
        """Largest Lipschitz modulus over the solutions."""
        return float(self.lipschitz_moduli_.max())

    @property
    def sample_lipschitz_moduli_(self):
        """Modulus of each row's perturbations, shape (n_solutions, n_samples)."""
        return self._moduli_table("sample")

    @property
    def feature_lipschitz_moduli_(self):
        """Modulus of each feature's perturbations, shape (n_solutions, n_features)."""
        return self._moduli_table("feature")

    @property
    def layer_lipschitz_moduli_(self):
        """Modulus of each parameter tensor moving alone, (n_solutions, n_layers)."""
        return self._moduli_table("layer")

    @property
    def layer_names_(self):
        """Names of the parameter tensors, in the order of the weights."""
        check_is_fitted(self)
        return list(self.solution_set_.objectives[0].parameter_slices)

    def _moduli_table(self, level):
        return np.stack([parts.values for parts in self._part_moduli(level)])

    def _part_moduli(self, level, groups=None) -> list[PartModuli]:
        """Moduli by part at each solution, kept; inf where it is not trustworthy."""
        check_is_fitted(self)
        if groups is not None:
            return self._certified(lambda gd: group_moduli(gd, groups))
        if level not in self._moduli_by_level:
            self._moduli_by_level[level] = self._certified(_MODULI[level])
        return self._moduli_by_level[level]

    def _certified(self, function) -> list[PartModuli]:
        pairs = zip(
            self.graphical_derivatives_, self._linearisation.diagnoses, strict=True
        )
        return [
            parts if diagnosis.is_trustworthy else parts.uncertified()
            for parts, diagnosis in ((function(gd), d) for gd, d in pairs)
        ]

    # Retraining -----------------------------------------------------------------------

    def retrain(
        self, X_perturbed, y_perturbed=None, *, warm_start=True, align=False
    ) -> SolutionSet:
        """Solutions on perturbed data by training: the truth to compare with.

        Parameters
        ----------
        X_perturbed, y_perturbed
            As in `sensitivity`.

        warm_start : bool, default=True
            Whether to continue each solution by second-order steps from its weights
            (element i continues solution i), or to train anew from the same seeds. A
            cold start may end in another minimum, or in a copy with hidden units
            permuted: then only sets can be compared.

        align : bool, default=False
            Whether to return, of a cold start, the copies of the solutions (hidden
            units reordered) nearest to the old ones, seed by seed, so that weights can
            be compared (see `SolutionSet.aligned_to`).

        Returns
        -------
        retrained : SolutionSet
            Solutions that are not stationary are marked in ``status``, not dropped.
        """
        question = ask(self, X_perturbed, y_perturbed, caller="retrain")
        task = self._task.on(question.X_perturbed, question.y_perturbed)
        if warm_start:
            derivatives, options = self.graphical_derivatives_, self._options()
            with memory_explained("retrain"), bars(self.verbose):
                return continue_solutions(derivatives, task, **options).solution_set
        if align:
            _ = self.solution_set_.symmetry  # refuses unknown ones before any training
        kept = keep_successful(self._run_restarts(task), stacklevel=2)
        objective = self.solution_set_.objectives[0].with_data(task.X, task.y)
        retrained = linearise_restarts(
            task, objective.untilted(), kept, **self._options()
        ).solution_set
        if not align:
            return retrained
        pairwise = len(retrained) == len(self.solution_set_)
        return retrained.aligned_to(self.solution_set_, pairwise=pairwise)
