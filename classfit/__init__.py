"""Class-fitting modes: how the representations of each class are distributed inside a network.

Dirichlet-process and finite Gaussian mixtures of many classes at once, as scikit-learn estimators, with the posterior
predictive densities, divergences and groups of classes that follow from them.
"""

from classfit.classifier import ClassConditionalDensity
from classfit.convergence import Convergence
from classfit.dpgmm import DPGaussianMixture, Trace
from classfit.em import GaussianMixture
from classfit.leave_one_out import LeaveOneOut
from classfit.modes import DensityGroups, density_groups
from classfit.predictive import Estimate, Posterior, RelativeEntropy
from classfit.prior import ConstantFeatureWarning
from classfit.representations import Representation, extract_representations
from classfit.states import StateEvidence, state_evidence

__all__ = [
    "ClassConditionalDensity",
    "ConstantFeatureWarning",
    "Convergence",
    "DPGaussianMixture",
    "DensityGroups",
    "Estimate",
    "GaussianMixture",
    "LeaveOneOut",
    "Posterior",
    "RelativeEntropy",
    "Representation",
    "StateEvidence",
    "Trace",
    "density_groups",
    "extract_representations",
    "state_evidence",
]
