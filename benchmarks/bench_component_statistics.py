"""Counts, means and scatters of hard assignments, float64: 20 classes of 500 points, 6 components each, D = 64."""

from typing import Any

import numpy as np
import pytest
import torch

import kernels
from benchmarks.made import classes
from benchmarks.measure import Peer, compare
from tests import tolerances

G, N_CLASS, K, D = 20, 500, 6, 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_component_statistics(benchmark: Any, dtype: torch.dtype) -> None:
    case = classes(G, N_CLASS, K, D, 1.0, dtype)
    points, labels = case.x.double().numpy(), case.labels.numpy()

    def with_numpy() -> np.ndarray:
        scatters = np.empty((G, K, D, D))
        for g in range(G):
            own = slice(g * N_CLASS, (g + 1) * N_CLASS)
            for k in range(K):
                members = points[own][labels[own] == k]
                centred = members - members.mean(0)
                scatters[g, k] = centred.T @ centred
        return scatters

    # Products of float32 points may be taken in float32.
    tolerance = tolerances.moments(dtype, N_CLASS // K, float(case.x.abs().max()) ** 2)
    flops = G * N_CLASS * (D * (D + 1) + 2 * D)
    result = compare(
        benchmark,
        lambda: kernels.component_statistics(case.x, case.labels, K, group_offsets=case.group_offsets).scatters,
        [Peer("numpy (float64)", with_numpy, tolerance, every=2)],
        rounds=21,
        operation="component_statistics",
        shapes={"classes": G, "points a class": N_CLASS, "components": K, "features": D},
        dtype=str(dtype).removeprefix("torch."),
        flops=flops,
    )
    result.measure("rate", flops / result.seconds / 1e9, "Gflop/s")
