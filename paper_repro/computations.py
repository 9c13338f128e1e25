"""What each step computes. A step reads its settings and the folders of its inputs, and writes into its own."""

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.markup import escape

from paper_repro.chains import chain_rows, thinned
from paper_repro.figure_arguments import ARGUMENTS
from paper_repro.figures import module as figure_module
from paper_repro.inputs import (
    build_network,
    class_names,
    load_network,
    load_posterior,
    log_density_of,
    read_dataset,
    representation_of,
    train_labels,
    values_of,
)
from paper_repro.machine import density_device
from paper_repro.statistics import gap_p_value, is_split
from paper_repro.steps import ARCHIVE_ORDER, Work, derived_seed
from paper_repro.storage import read_arrays, read_json, write_arrays, write_csv, write_json, write_tensors
from paper_repro.timing import extrapolated, part_that_is_short, seconds_of, timed_fit, typical

__all__ = [
    "classes",
    "dataset",
    "draw",
    "estimate_leave_one_out",
    "estimate_network",
    "estimate_passes",
    "estimate_posterior",
    "estimate_relative_entropy",
    "estimate_representations",
    "estimate_test_densities",
    "estimate_test_representations",
    "figure",
    "leave_one_out",
    "mixture",
    "network",
    "posterior",
    "relative_entropy",
    "representations",
    "test_densities",
    "test_representations",
]

WARNINGS = "warnings.json"
"""What fits warned of, if anything: a list in the folder of a posterior, by stage in that of the table of classes."""


def draw(folder: Path, name: str) -> None:
    """Write the table and the pictures of a figure from its stored numbers."""
    from paper_repro.figures import style

    module, stored = figure_module(name), read_arrays(folder / "numbers.npz")
    rows, picture = module.table(stored), module.draw(stored)
    write_csv(folder / f"{name}.csv", rows)
    style.save(picture, folder, name)


def dataset(work: Work, source: Path | None = None) -> None:
    """Decode the images once; `source` is where they are."""
    from paper_repro import datasets

    options = dict(work.settings)
    name = options.pop("name")
    given = {key: options.pop(key) for key in ("mean", "std") if key in options}
    for told_apart in ("path", "images"):
        options.pop(told_apart, None)
    if "seed" in options:
        options["seed"] = derived_seed(options["seed"], "split")
    with datasets.shown_on(work.console):
        data = datasets.load(name, source=source, **options)
    tensors = ("train_images", "train_labels", "test_images", "test_labels")
    write_tensors(work.folder / "data.safetensors", {name: getattr(data, name) for name in tensors})
    if data.split is not None:
        write_csv(work.folder / "split.csv", data.split)
    if data.archive_order is not None:
        write_arrays(work.folder / ARCHIVE_ORDER, {"order": data.archive_order})
    counts = {"n_train": len(data.train_labels), "n_test": len(data.test_labels)}
    about = {"class_names": data.class_names, "image_shape": list(data.train_images.shape[1:]), **counts}
    mean, std = datasets.pixel_statistics(data.train_images, data.white)
    pixels = {"white": data.white, "mean": mean, "std": std} | given
    write_json(work.folder / "dataset.json", {"name": name, "source": data.source, **about, **pixels})
    names = data.class_names
    work.console.print(
        f"{len(data.train_labels):,} training and {len(data.test_labels):,} test images of {len(names)} classes "
        f"({escape(_listed(names))}), from {escape(data.source)}{data.ignored and f'; {escape(data.ignored)}'}",
        soft_wrap=True,
    )


def network(work: Work) -> None:
    from paper_repro.networks import accuracy
    from paper_repro.training import TrainingSettings, bfloat16_is_fast, train

    data, prepare = read_dataset(work)
    network = build_network(work, work.settings)
    settings = TrainingSettings.of(work.settings)
    device = next(network.parameters()).device
    history = train(
        network,
        data["train_images"],
        data["train_labels"],
        settings,
        seed=derived_seed(work.settings["seed"], "training"),
        prepare=prepare,
        checkpoint=work.folder / "checkpoint.safetensors",
        console=work.console,
    )
    # Matrices and convolutions are kept in half precision, and the network that everything else reads is the kept one.
    weights = {name: t.cpu().half() if t.ndim > 1 else t.cpu() for name, t in network.state_dict().items()}
    network.load_state_dict(weights)
    write_tensors(work.folder / "weights.safetensors", weights)
    write_csv(
        work.folder / "history.csv", [{"epoch": i, **epoch._asdict()} for i, epoch in enumerate(history, start=1)]
    )
    summary = {
        "settings": dict(work.settings),
        "training": settings._asdict() | {"bfloat16": settings.bfloat16 and bfloat16_is_fast(device)},
        "device": device.type,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "test_accuracy": accuracy(network, data["test_images"], data["test_labels"], prepare=prepare),
        "train_accuracy": accuracy(network, data["train_images"], data["train_labels"], prepare=prepare),
    }
    write_json(work.folder / "network.json", summary)
    work.console.print(
        f"test accuracy {summary['test_accuracy']:.1%}, training accuracy {summary['train_accuracy']:.1%}"
    )


def estimate_network(work: Work) -> float:
    from paper_repro.training import TrainingSettings, estimate_seconds

    data, prepare = read_dataset(work)
    network = build_network(work, work.settings, pretrained=False)
    return estimate_seconds(
        network,
        data["train_images"],
        data["train_labels"],
        TrainingSettings.of(work.settings),
        prepare,
        work.folder / "checkpoint.safetensors",
    )


def representations(work: Work) -> None:
    from classfit import extract_representations
    from paper_repro.networks import BATCH_SIZE

    data, prepare = read_dataset(work)
    batches = map(prepare, data["train_images"].split(BATCH_SIZE))
    dimensions = work.settings["dimensions"]
    found = extract_representations(load_network(work), batches, list(dimensions), n_components=dimensions)
    for layer, representation in found.items():
        write_arrays(work.folder / f"{layer}.npz", representation._asdict())


def test_representations(work: Work) -> None:
    """Those of the test images, projected as the training images were, and the class that the network gives each."""
    from classfit import extract_representations
    from classfit.representations import Representation
    from paper_repro.networks import BATCH_SIZE, predictions

    data, prepare = read_dataset(work)
    network, layers = load_network(work), work.settings["layers"]
    projections = {layer: Representation(**representation_of(work, layer)) for layer in layers}
    batches = map(prepare, data["test_images"].split(BATCH_SIZE))
    found = extract_representations(network, batches, layers, projections=projections)
    predicted = predictions(network, data["test_images"], prepare=prepare).cpu().numpy()
    values = {layer: representation.values for layer, representation in found.items()}
    write_arrays(work.folder / "test.npz", {**values, "predicted": predicted, "labels": data["test_labels"].numpy()})


def estimate_test_representations(work: Work) -> float:
    return 2 * estimate_passes(work, load_network(work), "test_images")


def estimate_representations(work: Work) -> float:
    return estimate_passes(work, load_network(work), "train_images")


def estimate_passes(work: Work, network: Any, images: str) -> float:
    """Seconds that the network would take for all of these images."""
    import torch

    from paper_repro.networks import BATCH_SIZE

    data, prepare = read_dataset(work)
    network.eval()
    device = next(network.parameters(), torch.empty(0)).device

    @torch.no_grad()
    def passes(n: int) -> None:
        network(prepare(data[images][:n].to(device)))  # a network that is given may return anything
        if device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(n: int) -> float:
        return seconds_of(lambda: passes(n))

    n = part_that_is_short(seconds, min(BATCH_SIZE, len(data[images])))
    return typical(seconds, n) / n * len(data[images])


def posterior(work: Work) -> None:
    """Densities of all classes at one stage or layer, as the protocol has them; under `heldout` with the posterior of
    the input of the same name, the fit to all points."""
    x, labels, names = values_of(work, _layer(work)), train_labels(work), class_names(work)
    with _warnings_in_words(work, names) as said:
        converged = _fit(work, x, labels)
    if said:
        write_json(work.folder / WARNINGS, sorted(said))
    if converged is not None:
        _say_convergence(work, converged, names)


def _fit(work: Work, x: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Returns whether the fits converged, [..., G]; None if one chain a class cannot tell."""
    from classfit.protocols import em, heldout

    verbose, density = int(work.console.is_terminal), work.settings.get("density", "chain")
    if density == "em":
        found = em(x, labels, random_state=_seed_of_layer(work), verbose=verbose, device=density_device(x.shape[1]))
        write_arrays(work.folder / "density.npz", {"log_density": found.log_density})
        write_arrays(work.folder / "diagnostics.npz", found.diagnostics)
        return found.diagnostics["converged"]
    if density == "heldout":
        # A chain goes on only where it began: a machine with another device begins those of its own.
        folder = _folds(work, x)
        folder.mkdir(exist_ok=True)
        found = heldout(
            x,
            labels,
            n_folds=N_FOLDS,
            random_state=_seed_of_layer(work),
            checkpoint_folder=folder,
            verbose=verbose,
            device=density_device(x.shape[1]),
        )
        write_arrays(work.folder / "diagnostics.npz", found.diagnostics)
        # Beside them those of the same fits on points that they saw: a fold has fewer points than the class.
        densities = {"log_density": found.log_density, "in_sample": found.diagnostics["in_sample"]}
        write_arrays(work.folder / "density.npz", densities)
        for name in ("posterior.npz", "trace.npz"):
            shutil.copyfile(work.input(work.folder.name) / name, work.folder / name)
        return found.diagnostics["converged"]
    model = _mixture(work, x.shape[1], checkpoint=_checkpoint(work, x.shape[1]), verbose=verbose)
    model.fit(x, groups=labels)
    model.posterior_.save(work.folder / "posterior.npz")
    numbers = model.trace_ if density == "chain" else model.convergence_
    write_arrays(work.folder / "trace.npz", numbers._asdict())
    densities = {"log_density": model.posterior_.log_density(x, groups=labels)}
    if density != "chain":
        densities["mean_by_chain"] = numbers.mean_log_density
    write_arrays(work.folder / "density.npz", densities)
    return None if density == "chain" else numbers.converged


def _checkpoint(work: Work, n_features: int) -> Path:
    """Of the fit to all points; here too a machine with another device begins a chain of its own."""
    return work.folder / f"checkpoint-{density_device(n_features)}.npz"


def _folds(work: Work, x: np.ndarray) -> Path:
    """Where the fits that leave a fold out keep their checkpoints."""
    return work.folder / f"checkpoint-folds-{density_device(x.shape[1])}"


@contextmanager
def _warnings_in_words(work: Work, names: list[str]) -> Iterator[set[str]]:
    """Warnings of fits are said in a line each, once, with names of classes, and are the set that is given;
    `_say_convergence` says which failed."""
    from sklearn.exceptions import ConvergenceWarning

    from classfit import ConstantFeatureWarning

    said: set[str] = set()
    show = warnings.showwarning

    def named(found: re.Match) -> str:
        return f"class{found[1] and 'es'} {', '.join(names[int(g)] for g in found[2].split(', '))}"

    def say(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, (ConstantFeatureWarning, ConvergenceWarning)):
            show(message, category, filename, lineno, file, line)
            return
        words = re.sub(r"\bgroup(s?) (\d+(?:, \d+)*)", named, str(message))
        if words not in said:
            said.add(words)
            _warn(work, words)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the chains of .* do not agree|EM did not converge", ConvergenceWarning)
        warnings.showwarning = say
        yield said


def _say_convergence(work: Work, converged: np.ndarray, names: list[str]) -> None:
    """converged: [..., G], of one fit or several."""
    if failed := [names[g] for g in np.flatnonzero(~converged.reshape(-1, len(names)).all(0))]:
        counted = f"{len(failed)} of {len(names)} classes"
        _warn(work, f"fits of {counted} did not converge ({_listed(failed)}): see the table of classes")


def _warn(work: Work, words: str) -> None:
    step = "/".join(work.folder.parts[-2:])
    work.console.print(f"[yellow]{escape(f'{step}: {words}')}[/]", soft_wrap=True)


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:3])}, ..., {names[-1]}"


N_FOLDS = 5
"""Of the protocol heldout: each is a fit of all classes to the points of the others."""


def estimate_posterior(work: Work) -> float:
    x, labels = values_of(work, _layer(work)), train_labels(work)
    density = work.settings.get("density", "chain")
    if density != "chain":
        from classfit.protocols import em

        n_fits = _share_left(work, x.shape[1])
        if density == "heldout":
            # All but the last checkpoint are of fits that ended.
            n_fits = N_FOLDS - max(0, len(list(_folds(work, x).glob("fold*.npz"))) - 1)
            kept = np.argsort(labels, kind="stable")[np.arange(len(x)) % N_FOLDS > 0]
            x, labels = x[kept], labels[kept]

        def fit(points: np.ndarray, groups: np.ndarray) -> Any:
            if density == "em":
                return em(points, groups, device=density_device(x.shape[1]))
            return _mixture(work, x.shape[1]).fit(points, groups=groups)

        return n_fits * timed_fit(fit, x, labels, density_device(x.shape[1]))[0]

    def seconds(n_sweeps: int) -> float:
        model = _mixture(work, x.shape[1], n_sweeps=n_sweeps, n_discard=0)
        return seconds_of(lambda: model.fit(x, groups=labels))

    thin = work.settings["thin"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the step says them
        return _share_left(work, x.shape[1]) * extrapolated(seconds, thin, 4 * thin, work.settings["n_sweeps"])


def _share_left(work: Work, n_features: int) -> float:
    """Of the fit to all points, by its checkpoint."""
    from classfit import convergence

    path = _checkpoint(work, n_features)
    if not path.exists():
        return 1.0
    stored = read_arrays(path)
    if "sweep" in stored:
        return 1 - int(stored["sweep"]) / work.settings["n_sweeps"]
    done, total = convergence.progress(int(stored["round"]), stored["begun"], stored["stopped"])
    return 1 - done / total


def relative_entropy(work: Work) -> None:
    settings = work.settings
    estimate = load_posterior(work, settings["stage"]).relative_entropy(
        n_draws=settings["n_draws"],
        random_state=derived_seed(settings["seed"], "relative entropy", settings["stage"]),
        verbose=int(work.console.is_terminal),
    )
    write_arrays(work.folder / "relative_entropy.npz", estimate._asdict())


def estimate_relative_entropy(work: Work) -> float:
    posterior, n_draws = load_posterior(work, work.settings["stage"]), work.settings["n_draws"]

    def seconds(n: int) -> float:
        return seconds_of(lambda: posterior.relative_entropy(n_draws=n, random_state=0))

    return extrapolated(seconds, n_draws // 200 + 2, n_draws // 50 + 4, n_draws)


def leave_one_out(work: Work) -> None:
    """Log-density of every training point, as fitted and left out, with its class; points are sorted by class."""
    posterior, verbose = load_posterior(work, _layer(work)), int(work.console.is_terminal)
    write_arrays(work.folder / "densities.npz", _seen_and_left_out(posterior, verbose))


def _seen_and_left_out(posterior: Any, verbose: int = 0) -> dict[str, np.ndarray]:
    labels = np.repeat(posterior.groups, np.diff(posterior.group_offsets.numpy()))
    found = posterior.leave_one_out(verbose=verbose)
    return {
        "seen": posterior.log_density(posterior.x, labels, verbose=verbose),
        "left_out": found.log_density,
        "effective_draws": found.effective_draws,
        "labels": labels,
    }


def estimate_leave_one_out(work: Work) -> float:
    posterior = load_posterior(work, _layer(work))
    labels, alpha = posterior.labels, posterior.alpha

    def seconds(n: int) -> float:
        posterior.labels, posterior.alpha = labels[:n], alpha[:n]
        return seconds_of(lambda: _seen_and_left_out(posterior))

    return extrapolated(seconds, 1, 2, len(labels))


def test_densities(work: Work) -> None:
    """Log-density of every test image under that of its own class, given all training points, at each stage."""
    test = read_arrays(work.input("test_representations") / "test.npz")
    densities = {
        f"stage_{stage}": load_posterior(work, stage).log_density(test[f"layer{stage}"], test["labels"])
        for stage in work.settings["stages"]
    }
    write_arrays(work.folder / "densities.npz", {**densities, "labels": test["labels"], "predicted": test["predicted"]})


def estimate_test_densities(work: Work) -> float:
    test = read_arrays(work.input("test_representations") / "test.npz")

    def of_stage(stage: int) -> float:
        posterior, x = load_posterior(work, stage), test[f"layer{stage}"]

        def seconds(n: int) -> float:
            return seconds_of(lambda: posterior.log_density(x[:n], test["labels"][:n]))

        n = max(2, len(x) // 50)
        return extrapolated(seconds, n // 2, n, len(x))

    return sum(map(of_stage, work.settings["stages"]))


def classes(work: Work) -> None:
    """All numbers of each class at each stage, and the traces of the chains, for the report's table."""
    from classfit import density_groups
    from paper_repro.figures.class_density import class_statistics

    labels, names = train_labels(work), class_names(work)
    rows: list[dict[str, Any]] = []
    traces: dict[str, np.ndarray] = {}
    said: dict[str, list[str]] = {}
    for stage in work.settings["stages"]:
        mean, std = class_statistics(log_density_of(work, stage), labels, len(names))
        high, p = density_groups(mean).high, gap_p_value(mean)
        split = is_split(mean, p)
        found = work.input(f"posterior_stage_{stage}")
        trace, diagnostics = (
            read_arrays(found / name) if (found / name).exists() else {} for name in ("trace.npz", "diagnostics.npz")
        )
        if (found / WARNINGS).exists():
            said[str(stage)] = read_json(found / WARNINGS)
        judged = chain_rows(trace, diagnostics, work.settings["n_discard"])
        if trace:
            components = _mean_components(load_posterior(work, stage))
            entropy = read_arrays(work.input(f"relative_entropy_stage_{stage}") / "relative_entropy.npz")
        else:
            components = diagnostics["n_components"]
            entropy = dict.fromkeys(("value", "standard_error"), np.full(len(names), np.nan))
        for g, name in enumerate(names):
            rows.append(
                {
                    "stage": stage,
                    "class": name,
                    "n_points": int((labels == g).sum()),
                    "mean_log_density_nats": float(mean[g]),
                    "std_log_density_nats": float(std[g]),
                    "mean_components": float(components[g]),
                    "relative_entropy_nats": float(entropy["value"][g]),
                    "relative_entropy_standard_error_nats": float(entropy["standard_error"][g]),
                    "above_largest_gap": bool(high[g]),
                    "gap_p_value": p,
                    "density_group": ("high" if high[g] else "low") if split else "",
                    **judged[g],
                }
            )
        for name in ("n_components", "log_joint"):
            if name in trace and work.settings["trace_points"]:
                traces[f"{name}_{stage}"] = thinned(trace[name], work.settings["trace_points"])
    write_csv(work.folder / "classes.csv", rows)
    write_arrays(work.folder / "traces.npz", traces)
    if said:
        write_json(work.folder / WARNINGS, said)


def figure(work: Work) -> None:
    name = work.settings["figure"]
    arguments = ARGUMENTS[name](work)
    words = {key: np.array(work.settings[key]) for key in ("subtitle", "note")}
    write_arrays(work.folder / "numbers.npz", figure_module(name).compute(**arguments) | words)
    draw(work.folder, name)


def _layer(work: Work) -> int | str:
    """Stage of the residual network, or name of a layer of another one."""
    return work.settings.get("layer", work.settings.get("stage"))


def _mixture(work: Work, n_features: int, **changes: Any) -> Any:
    return mixture(work.settings, _seed_of_layer(work), n_features, **changes)


def mixture(settings: Mapping[str, Any], random_state: int, n_features: int, **changes: Any) -> Any:
    """The estimator of a protocol that samples, for points of so many features."""
    from classfit import DPGaussianMixture

    if settings.get("density", "chain") != "chain":
        chosen = {"n_init_components": settings["n_init_components"], "protocol": "converged"}
    else:
        names = ("n_sweeps", "n_discard", "thin", "block_size", "n_init_components", "official")
        chosen = {name: settings[name] for name in names}
    where = "cpu" if changes.get("corrected") else density_device(n_features)
    return DPGaussianMixture(**{**chosen, "random_state": random_state, "device": where, **changes})


def _seed_of_layer(work: Work) -> int:
    names = [work.settings[name] for name in ("network", "layer", "stage") if name in work.settings]
    return derived_seed(work.settings["seed"], "posterior", *names)


def _mean_components(posterior: Any) -> np.ndarray:
    """[G] number of components, averaged over the kept sweeps."""
    edges = posterior.group_offsets.tolist()
    return np.array([(posterior.labels[:, a:b].max(1) + 1).mean() for a, b in pairwise(edges)])
