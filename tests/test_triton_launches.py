"""How the Triton engine's wrappers launch densities and EM: what kernels are given, without copies or waits for it."""

import pytest
import torch
from cases import mixture_case
from test_triton_densities import DEVICE, DTYPES, FAMILIES, everything, mixture_densities, statistics


@pytest.mark.skipif(DEVICE == "cuda", reason="looks at what the interpreter is called with")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_are_given_what_they_are_compiled_for(dtype, monkeypatch):
    """Every pointer a multiple of 16, though every argument is a view that is not."""
    from triton.runtime.interpreter import GridExecutor

    given, call = [], GridExecutor.__call__

    def watched(self, *args, **kwargs):
        given.extend((self.fn.__name__, arg.data_ptr() % 16) for arg in args if isinstance(arg, torch.Tensor))
        return call(self, *args, **kwargs)

    def odd(t):
        flat = torch.cat([t.new_zeros(1), t.flatten()])[1:]
        assert flat.data_ptr() % 16 or not len(t)
        return flat.view(t.shape)

    monkeypatch.setattr(GridExecutor, "__call__", watched)
    case = mixture_case(33, 6, 16, dtype)
    expected = everything(case)
    case = type(case)(*map(odd, case))
    offsets = {"component_offsets": odd(torch.tensor([0, 2, 6])), "group_offsets": odd(torch.tensor([0, 9, 33]))}
    for actual, value in zip(everything(case), expected, strict=True):
        assert torch.equal(actual, value)
    for family in FAMILIES:
        mixture_densities(case, family, **offsets)
    statistics(case, **offsets)
    assert len({name for name, _ in given}) == 9
    assert [name for name, address in given if address] == []


def test_em_pads_points_and_means_once(monkeypatch):
    case = mixture_case(33, 3, 17)
    padded, new_zeros = [], torch.Tensor.new_zeros
    monkeypatch.setattr(torch.Tensor, "new_zeros", lambda *args: padded.append(args[1:]) or new_zeros(*args))
    statistics(case)
    assert padded == [(33, 32), (3, 32)]


def test_one_group_is_made_where_the_points_are(monkeypatch):
    # torch.tensor would copy its two numbers from the host, which waits for the device.
    case = mixture_case(33, 3, 5)
    expected = everything(case)
    monkeypatch.setattr(torch, "tensor", None)
    for actual, value in zip(everything(case), expected, strict=True):
        assert torch.equal(actual, value)
