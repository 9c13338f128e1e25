"""How the engine's inner functions are compiled."""

from functools import partial

from numba import njit

leaf = partial(njit, nogil=True, cache=True, _nrt=False)
"""For functions that make no array: they need not count references to the arrays they are given, which otherwise takes
up to a quarter of a sweep. What they call must be of their kind."""
