"""Pooled activations of named layers, projected on their leading right singular vectors (section 3 of the paper)."""

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from classfit.devices import checked

__all__ = ["Representation", "extract_representations"]

BLOCK_NUMBERS = 2**25
"""Of activations in float64 at a time: a quarter of a gigabyte."""


class Representation(NamedTuple):
    """Representations of N inputs at one layer, and the projection that made them."""

    values: np.ndarray
    """[N, d] float32: pooled activations times the components, rows in loader order."""
    components: np.ndarray
    """[d, C] float64: leading right singular vectors of the pooled activations, orthonormal rows."""
    singular_values: np.ndarray
    """[min(N, C)] float64: all singular values, falling, of the data that the components were computed from."""

    @property
    def variance_kept(self) -> float:
        """Sum of the d kept squared singular values over the sum of all (1 when all are zero)."""
        squares = np.square(self.singular_values / max(self.singular_values[0], np.finfo(np.float64).tiny))
        total = squares.sum()
        return float(squares[: len(self.components)].sum() / total) if total > 0 else 1.0


def extract_representations(
    model: nn.Module,
    loader: Iterable[Any],
    layers: Sequence[str],
    *,
    n_components: int | float | Mapping[str, int | float | None] | None = None,
    projections: Mapping[str, Representation] | None = None,
    device: torch.device | str | None = None,
    verbose: int = 0,
) -> dict[str, Representation]:
    """Run a network over the inputs and return the projected, pooled activations of the named layers.

    The pooled activations A [N, C] of a layer are those of its output in evaluation mode:

        [B, C, H, W]    mean over the H x W positions (channels last, as in a Swin transformer, must be permuted before)
        [B, T, C]       the class token (the first) if the model has a parameter named class_token or cls_token,
                        else the mean over the T tokens
        [B, C]          as they are

    With A = U diag(s) V' in float64, uncentred as in the published code, values = A V_d for the d leading columns of V.
    The sign of each column is such that its entry of largest magnitude is positive.

    Args:
        model: any network. Its mode (training or evaluation, module by module) and device are restored, on errors too.
        loader: batches, each a tensor of inputs or a tuple or list whose first entry is one. Rows follow its order, so
            it should not shuffle.
        layers: names from `model.named_modules()`.
        n_components: d. None keeps all min(N, C); an int that many; a float in (0, 1) the fewest that keep this
            fraction of the sum of squared singular values; or a dict from each layer to one of these.
        projections: what an earlier call returned. Its components are applied, and no SVD is made: for test data.
        device: where to run; None is where the first parameter of the model lies.
        verbose: 1 shows a progress bar.

    Returns:
        A dict from layer to Representation, in the order of `layers`. With `projections`, components and
        singular_values are those given.

    Raises:
        ValueError: an unknown layer, or one named twice; a layer that runs not at all or several times in one pass, or
            gives another number of rows than there are inputs; an output that is not a tensor of one of the shapes
            above or not finite; n_components out of range; a projection that is missing or of another width; an empty
            loader, or one that is a tensor or a dataset; a device that is not here.

    Warns:
        UserWarning: an output of four dimensions looks like [B, H, W, C]: its second and third are equal, its last not.
    """
    _check_layers(model, layers)
    sizes = _check_n_components(n_components, projections, layers)
    activations = _pooled_activations(model, loader, layers, device, verbose)
    representations = {}
    for layer in layers:
        A = activations.pop(layer).numpy()
        if projections is not None:
            components, singular_values = projections[layer].components, projections[layer].singular_values
            if components.shape[1] != A.shape[1]:
                raise ValueError(
                    f"projections[{layer!r}] must have components of width {A.shape[1]}, as the layer has, "
                    f"got {components.shape[1]}"
                )
        else:
            right_vectors, singular_values = _svd(A)
            components = right_vectors[: _n_kept(sizes[layer], singular_values, layer)].copy()
        values = np.concatenate([(part @ components.T).astype(np.float32) for part in _blocks(A)])
        representations[layer] = Representation(values, components, singular_values)
    return representations


def _pooled_activations(
    model: nn.Module, loader: Iterable[Any], layers: Sequence[str], device: torch.device | str | None, verbose: int
) -> dict[str, Tensor]:
    """[N, C] float32 of each layer."""
    pooled: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    class_token = any(name.rpartition(".")[2] in ("class_token", "cls_token") for name, _ in model.named_parameters())

    def hook_of(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not pooled[layer]:
                _warn_of_channels_last(output, layer)
            # A copy: the network may change its output in place after this layer.
            pooled[layer].append(_pool(output, class_token, layer).to("cpu", torch.float32, copy=True))

        return hook

    if isinstance(loader, Tensor) or (isinstance(loader, Dataset) and not isinstance(loader, IterableDataset)):
        raise ValueError(f"loader must give batches, as a DataLoader does, got a {type(loader).__name__}")
    batches: Iterable[Any] = track(loader, description="representations") if verbose else loader
    n_batches = 0
    with (
        _evaluating(model, device) as home,
        _hooks(model, {layer: hook_of(layer) for layer in layers}),
        torch.no_grad(),
    ):
        for n_batches, batch in enumerate(batches, start=1):
            images = _images(batch)
            model(images.to(home))
            for layer in layers:
                if len(pooled[layer]) != n_batches:
                    runs = len(pooled[layer]) - n_batches + 1
                    raise ValueError(f"layer {layer!r} must run once in a forward pass, it ran {runs} times")
                if len(pooled[layer][-1]) != len(images):
                    raise ValueError(
                        f"layer {layer!r} must give one row for each of the {len(images)} inputs of a batch, it gave "
                        f"{len(pooled[layer][-1])} (windows or clips as rows, sequence before batch, or no batch)"
                    )
    if n_batches == 0:
        raise ValueError("loader must give at least one batch, it gave none")
    result = {}
    for layer in layers:
        result[layer] = torch.cat(pooled.pop(layer))
        finite = torch.isfinite(result[layer]).all(1)
        if not finite.all():
            bad = (~finite).nonzero().flatten()
            raise ValueError(
                f"activations of layer {layer!r} must be finite, {len(bad)} of {len(finite)} inputs have others, "
                f"the first is input {int(bad[0])}"
            )
    return result


def _pool(output: Any, class_token: bool, layer: str) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(f"the output of layer {layer!r} must be a tensor, got {type(output).__name__}")
    if output.ndim == 4:
        return output.float().mean((2, 3))
    if output.ndim == 3:
        return output[:, 0] if class_token else output.float().mean(1)
    if output.ndim == 2:
        return output
    raise ValueError(
        f"the output of layer {layer!r} must have shape [B, C, H, W], [B, T, C] or [B, C], got {list(output.shape)}"
    )


def _warn_of_channels_last(output: Any, layer: str) -> None:
    if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
        warnings.warn(
            f"the output of layer {layer!r}, of shape {list(output.shape)}, is taken as [B, C, H, W] but looks like "
            "[B, H, W, C]; if it is, name a layer after which channels come first",
            stacklevel=2,
        )


def _images(batch: Any) -> Tensor:
    images = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
    if not isinstance(images, Tensor):
        raise ValueError(f"loader must give tensors, or tuples that start with one, got {type(images).__name__}")
    return images


@contextmanager
def _evaluating(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """The model in evaluation mode on `device`, and back as it was."""
    first = next(model.parameters(), torch.empty(0))
    modes = [(module, module.training) for module in model.modules()]
    home = first.device
    target = home if device is None else checked(device)
    try:
        if device is not None:
            model.to(target)
        model.eval()
        yield target
    finally:
        for module, training in modes:
            module.training = training
        if device is not None:
            model.to(home)


@contextmanager
def _hooks(model: nn.Module, hooks: Mapping[str, Callable[[nn.Module, Any, Any], None]]) -> Iterator[None]:
    handles = [model.get_submodule(layer).register_forward_hook(hook) for layer, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _svd(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right singular vectors [min(N, C), C], signs fixed, and singular values of A [N, C], in float64."""
    # The triangular factor of A has the same ones, at a fraction of the cost when N is large; that of some rows stands
    # for them when the next ones are added.
    reduced = np.empty((0, A.shape[1]))
    for part in _blocks(A):
        reduced = np.concatenate([reduced, part])
        if len(reduced) > A.shape[1]:
            reduced = np.asarray(np.linalg.qr(reduced, mode="r"))
    _, singular_values, right_vectors = np.linalg.svd(reduced, full_matrices=False)
    largest = np.take_along_axis(right_vectors, np.abs(right_vectors).argmax(1)[:, None], axis=1)
    return np.where(largest < 0, -right_vectors, right_vectors), singular_values


def _blocks(A: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of A in float64, so many that a copy of them is no burden."""
    n_rows = max(A.shape[1], BLOCK_NUMBERS // A.shape[1])
    for start in range(0, len(A), n_rows):
        yield A[start : start + n_rows].astype(np.float64)


def _n_kept(size: int | float | None, singular_values: np.ndarray, layer: str) -> int:
    if size is None:
        return len(singular_values)
    if isinstance(size, Integral):
        if size > len(singular_values):
            raise ValueError(
                f"n_components must be at most min(N, C) = {len(singular_values)} for layer {layer!r}, got {size}"
            )
        return int(size)
    squares = np.square(singular_values / max(singular_values[0], np.finfo(np.float64).tiny))
    kept = squares.cumsum()
    return min(int(np.searchsorted(kept, size * kept[-1])) + 1, len(squares))


def _check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    if isinstance(layers, str) or not len(layers):
        raise ValueError(f"layers must be a list of at least one layer name, got {layers!r}")
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for layer in layers:
        if layer not in names:
            close = difflib.get_close_matches(str(layer), names, n=5, cutoff=0.4) or names[1:6]
            raise ValueError(f"layers: the model has no layer {layer!r}; close names: {', '.join(close)}")
    if len(set(layers)) < len(layers):
        raise ValueError(f"layers must name each layer once, got {list(layers)}")


def _check_n_components(
    n_components: int | float | Mapping[str, int | float | None] | None,
    projections: Mapping[str, Representation] | None,
    layers: Sequence[str],
) -> dict[str, int | float | None]:
    if projections is not None:
        if n_components is not None:
            raise ValueError(f"n_components must be None when projections are given, got {n_components!r}")
        _check_keys(projections, "projections", layers)
        return {}
    if isinstance(n_components, Mapping):
        _check_keys(n_components, "n_components", layers)
        sizes = {layer: n_components[layer] for layer in layers}
    else:
        sizes = dict.fromkeys(layers, n_components)
    for size in sizes.values():
        whole = isinstance(size, Integral) and not isinstance(size, bool) and size >= 1
        fraction = isinstance(size, Real) and not isinstance(size, Integral) and 0 < size < 1
        if not (size is None or whole or fraction):
            raise ValueError(f"n_components must be None, an int >= 1 or a float in (0, 1), got {size!r}")
    return sizes


def _check_keys(value: Mapping[str, Any], name: str, layers: Sequence[str]) -> None:
    missing = [layer for layer in layers if layer not in value]
    if missing:
        raise ValueError(f"{name} must have an entry for every layer, it has none for {', '.join(map(repr, missing))}")
