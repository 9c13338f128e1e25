"""Traces of chains, made small enough to keep and to draw in a table."""

import numpy as np

__all__ = ["thinned"]


def thinned(trace: np.ndarray, n: int) -> np.ndarray:
    """What a small picture needs of a trace [T, G], or [T, C, G] of C chains: n sweeps evenly over it, all chains
    together, but at least 10 of each. Where a group has fewer (it had stopped: nan, or -1), nan at the end; float32."""
    chains = trace.reshape(len(trace), -1, trace.shape[-1]).astype(np.float64)
    n_chains, n_groups = chains.shape[1:]
    found = np.full((max(n // n_chains, 10), n_chains, n_groups), np.nan, dtype=np.float32)
    for g in range(n_groups):
        own = chains[..., g]
        own = own[~((own == -1) | np.isnan(own)).any(1)]
        chosen = np.unique(np.linspace(0, len(own) - 1, min(len(own), len(found))).round().astype(int))
        found[: len(chosen), :, g] = own[chosen]
    return found.reshape(-1, *trace.shape[1:])
