"""Generative classification: one density a class, argmax of class density times class prior (figure A.11)."""

from typing import Any, Self

import numpy as np
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from classfit._check import as_array, as_it_was
from classfit.dpgmm import DPGaussianMixture

__all__ = ["ClassConditionalDensity"]


class ClassConditionalDensity(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """A classifier from class-conditional densities.

        P(class g | x) = prior_g p_g(x) / sum_h prior_h p_h(x),        p_g fitted to the points of class g

    Args:
        density: an estimator with fit(X, groups=y) and class_log_density(X) [N, G]: `DPGaussianMixture` or
            `GaussianMixture`. It is cloned, and all classes are fitted in one call. None is DPGaussianMixture().
        priors: [G] class probabilities in the order of the sorted class names, summing to 1. None is the fraction of
            the points that each class has.

    Attributes:
        classes_: [G] sorted class names.
        class_log_prior_: [G] float64, -inf for a prior of zero.
        density_: the fitted density estimator.
        n_features_in_: D.
    """

    def __init__(self, density: Any = None, priors: Any = None) -> None:
        self.density = density
        self.priors = priors

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the density of every class.

        Args:
            X: [N, D] float32 or float64.
            y: [N] class names.

        Raises:
            ValueError: y is not made of classes; priors of the wrong length, negative, or not summing to 1; whatever
                the density estimator refuses.
        """
        with as_it_was(self):
            X, y = validate_data(self, as_array(X), as_array(y), dtype=[np.float64, np.float32])
            check_classification_targets(y)
            classes, counts = np.unique(y, return_counts=True)
            with np.errstate(divide="ignore"):
                log_prior = np.log(self._class_priors(counts))
            density = (DPGaussianMixture() if self.density is None else clone(self.density)).fit(X, groups=y)
            self.classes_, self.class_log_prior_, self.density_ = classes, log_prior, density
        return self

    def log_density(self, X: Any) -> np.ndarray:
        """[N, G] log-density in nats of every row of X [N, D] under every class, in the order of classes_."""
        check_is_fitted(self, "density_")
        X = validate_data(self, as_array(X), reset=False, dtype=[np.float64, np.float32])
        return self.density_.class_log_density(X)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """[N, G] log of the class probabilities; nan for a point so far out that every density is 0 in its dtype (in
        float32 beyond 1.8e19 standard deviations)."""
        joint = self.log_density(X) + self.class_log_prior_
        return joint - logsumexp(joint, axis=1, keepdims=True)

    def predict_proba(self, X: Any) -> np.ndarray:
        """[N, G] class probabilities."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """[N] the most probable class; the first where `predict_log_proba` is nan."""
        joint = self.log_density(X) + self.class_log_prior_
        return self.classes_[joint.argmax(axis=1)]

    def _class_priors(self, counts: np.ndarray) -> np.ndarray:
        if self.priors is None:
            return counts / counts.sum()
        priors = np.asarray(self.priors, dtype=np.float64)
        if priors.shape != counts.shape:
            raise ValueError(f"priors must have shape [{len(counts)}], one a class, got {list(priors.shape)}")
        # Rounding of a sum of G terms.
        slack = 10 * len(priors) * np.finfo(np.float32).eps
        if not (priors >= 0).all() or abs(priors.sum() - 1) > slack:
            raise ValueError(f"priors must be non-negative and sum to 1, got {priors.tolist()}")
        return priors
