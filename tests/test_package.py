"""The front doors: what they show, and that opening them is quiet."""

import subprocess
import sys

import pytest

import classfit


def test_public_names_of_classfit():
    assert classfit.__all__ == [
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
    assert all(getattr(classfit, name).__doc__ for name in classfit.__all__)


@pytest.mark.parametrize(
    ("package", "above"),
    [("kernels", ("classfit", "paper_repro")), ("classfit", ("paper_repro",)), ("paper_repro", ())],
)
def test_importing_prints_nothing_starts_no_gpu_and_brings_nothing_from_above(package, above):
    """Dependencies point one way: paper_repro -> classfit -> kernels."""
    code = (
        f"import {package}, sys; t = sys.modules.get('torch'); assert t is None or not t.cuda.is_initialized()\n"
        f"above = [m for m in sys.modules if m.split('.')[0] in {above}]; assert not above, above"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
