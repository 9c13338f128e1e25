"""What each figure is computed from: the files of its steps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.chains import in_small_components, n_chains, small_share
from paper_repro.inputs import (
    class_names,
    load_network,
    log_density_of,
    representation_of,
    train_labels,
    train_scores,
    values_of,
)
from paper_repro.published import class_memorization, matched, published_memorization
from paper_repro.steps import Work
from paper_repro.storage import read_arrays, read_json

__all__ = ["ARGUMENTS"]


def _densities(work: Work) -> dict[str, Any]:
    stages = work.settings["stages"]
    return {
        "log_density": {stage: log_density_of(work, stage) for stage in stages},
        "labels": train_labels(work),
        "class_names": class_names(work),
        "dimensions": {stage: values_of(work, stage).shape[1] for stage in stages},
        "by_chain": _by_chain({stage: work.input(f"posterior_stage_{stage}") for stage in stages}),
    }


def _by_chain(folders: Mapping[int, Path]) -> dict[int, np.ndarray]:
    """[C, G] mean log-density of each class under each chain alone; empty of fits with one, or stored before it was."""
    stored = {k: read_arrays(folder / "density.npz") for k, folder in folders.items()}
    found = {k: arrays["mean_by_chain"] for k, arrays in stored.items() if "mean_by_chain" in arrays}
    return found if len(found) == len(folders) else {}


def _figure_2(work: Work) -> dict[str, Any]:
    (stage,) = work.settings["stages"]
    entropy = read_arrays(work.input(f"relative_entropy_stage_{stage}") / "relative_entropy.npz")
    return {
        "log_density": log_density_of(work, stage),
        "representations": values_of(work, stage),
        "labels": train_labels(work),
        "relative_entropy": entropy["value"],
        "standard_error": entropy["standard_error"],
        "from_prior": entropy["from_prior"],
        "class_names": class_names(work),
        "stage": stage,
    }


def _figure_3(work: Work) -> dict[str, Any]:
    from classfit import density_groups
    from paper_repro.attacks import ATTACKS
    from paper_repro.figures.class_density import class_statistics

    labels, names, scores = train_labels(work), class_names(work), train_scores(work)
    log_density = log_density_of(work, 4)
    high = density_groups(class_statistics(log_density, labels, len(names))[0]).high
    bins = read_arrays(work.input("density_bins") / "bins.npz")
    certificates = read_arrays(work.input("certification") / "certificates.npz")
    attacked = read_arrays(work.input("attacks") / "attacks.npz")
    about = read_json(work.inputs["dataset"] / "dataset.json")
    return {
        "log_density": log_density,
        "memorization": scores["value"],
        "memorization_error": scores["standard_error"],
        "right_outside": _right_outside(work, len(labels)),
        "bins": bins["bins"],
        "labels": labels,
        "high": high,
        "predicted": bins["predicted"],
        "certified_rows": certificates["rows"],
        "smoothed": certificates["predicted"],
        "radius": certificates["radius"],
        "control": _control(work),
        "pixels_per_unit": float(np.min(about["std"])),
        "attacked_rows": attacked["rows"],
        "survived": {attack.title: attacked[name] for name, attack in ATTACKS.items()},
        "budgets": {attack.title: attacked[f"{name}_budgets"] for name, attack in ATTACKS.items()},
        "scale": {name: work.settings[name] for name in ("sigma", "n0", "n", "alpha", "n_trials", "networks")},
    }


def _control(work: Work) -> tuple[np.ndarray, np.ndarray] | None:
    """Class and radius of the certified points by the network beside those without a bin, if the protocol has one."""
    for name, folder in work.inputs.items():
        if name.rsplit("/", 1)[-1] == "certification_control":
            certificates = read_arrays(folder / "certificates.npz")
            return certificates["predicted"], certificates["radius"]
    return None


def _right_outside(work: Work, n: int) -> np.ndarray:
    """[n] share of the trials without the point that classify it rightly; nan where scores were given."""
    path = work.input("memorization") / "trials.npz"
    if not path.is_file():
        return np.full(n, np.nan)
    trials = read_arrays(path)
    outside = ~trials["inside"]
    return (trials["correct"] & outside).sum(0) / outside.sum(0)


def _figure_4(work: Work) -> dict[str, Any]:
    stages = work.settings["stages"]
    stored = read_arrays(work.input("kl_by_stage") / "kl.npz")
    return {"stages": stages, **_divergences(work, stored, stages)}


def _figure_b6(work: Work) -> dict[str, Any]:
    cells, dimensions = work.settings["cells"], work.settings["dimensions"]
    # Where figure 4 has as many dimensions, its numbers; the points and the classes are the same.
    stored = read_arrays(work.input("kl_at_other_dimensions") / "kl.npz")
    stored |= read_arrays(work.input("kl_by_stage") / "kl.npz")
    places = [stage if dimensions[stage - 1] == D else f"{stage}_{D}" for stage, D in cells]
    return {"cells": cells, **_divergences(work, stored, places)}


def _divergences(work: Work, stored: Mapping[str, np.ndarray], places: Sequence[int | str]) -> dict[str, Any]:
    """Between classes, in the order of the places: stages, or stages and dimensions."""
    names = class_names(work)
    scores, kinds = train_scores(work)["value"], ("most", "random", "least")
    threshold = work.settings["threshold"]

    def over_places(key: str) -> dict[str, np.ndarray]:
        return {kind: np.stack([stored[f"{kind}_{key}_{place}"] for place in places]) for kind in kinds}

    return {
        "divergence": over_places("value"),
        "standard_error": over_places("standard_error"),
        "memorization": {kind: scores[stored[f"{kind}_rows"]] for kind in kinds},
        "class_names": [names[g] for g in stored["classes"]],
        "n_classes": len(names),
        "least_points": work.settings["least_points"],
        "scale": {
            "threshold": np.nan if threshold is None else threshold,
            "n_trials": work.settings["n_trials"],
            "dimensions": work.settings["dimensions"],
            "networks": work.settings["networks"],
        },
    }


def _figure_a5(work: Work) -> dict[str, Any]:
    about = read_json(work.inputs["dataset"] / "dataset.json")
    read = {f"layer{stage}": values_of(work, stage).shape[1] for stage in work.settings["stages"]}
    return {"network": load_network(work), "image_shape": tuple(about["image_shape"]), "read": read}


def _figure_a6(work: Work) -> dict[str, Any]:
    found = {stage: representation_of(work, stage) for stage in work.settings["stages"]}
    return {
        "singular_values": {stage: arrays["singular_values"] for stage, arrays in found.items()},
        "dimensions": {stage: len(arrays["components"]) for stage, arrays in found.items()},
    }


def _figure_a8(work: Work) -> dict[str, Any]:
    layers = work.settings["layers"]
    parts = {"before": "conv", "after": "relu"}
    return {
        **{part: _by_number(work, [name for name in layers if name.startswith(kind)]) for part, kind in parts.items()},
        **_network(work),
    }


def _blocks(work: Work) -> dict[str, Any]:
    return {**_by_number(work, work.settings["layers"]), **_network(work)}


def _figure_a11(work: Work) -> dict[str, Any]:
    stored, labels = read_arrays(work.input("generative") / "generative.npz"), train_labels(work)
    scores, kinds = train_scores(work)["value"], ("most", "random", "least")
    rows = {kind: stored[f"{kind}_rows"] for kind in kinds}
    return {
        "stages": work.settings["stages"],
        "predicted": {kind: stored[f"{kind}_predicted"] for kind in kinds},
        "labels": {kind: labels[rows[kind]] for kind in kinds},
        "memorization": {kind: scores[rows[kind]] for kind in kinds},
        "n_fitted": len(labels) - sum(map(len, rows.values())),
        "scale": {name: work.settings[name] for name in ("n_trials", "networks")},
    }


def _figure_b1(work: Work) -> dict[str, Any]:
    names, stages = class_names(work), work.settings["stages"]
    return {
        "log_density": {stage: log_density_of(work, stage) for stage in stages},
        "labels": train_labels(work),
        "class_names": names,
        "dimensions": dict(zip(stages, work.settings["dimensions"], strict=True)),
        "memorization": matched(published_memorization(work.settings["published"]), names),
    }


def _figure_b2(work: Work) -> dict[str, Any]:
    names = class_names(work)
    ours = class_memorization(train_scores(work)["value"], train_labels(work), names)
    return {
        "ours": np.array(list(ours.values())),
        "published": matched(published_memorization(work.settings["published"]), names),
        "class_names": names,
        **{name: work.settings[name] for name in ("n_trials", "networks")},
    }


def _figure_b3(work: Work) -> dict[str, Any]:
    stages = dict(zip(work.settings["stages"], work.settings["dimensions"], strict=True))
    traces = {stage: read_arrays(work.input(f"posterior_stage_{stage}") / "trace.npz") for stage in stages}
    return {
        "traces": traces,
        "small_share": {
            stage: _small_share(work.input(f"posterior_stage_{stage}"), D, n_chains(traces[stage]))
            for stage, D in stages.items()
        },
        "class_names": class_names(work),
        "dimensions": work.settings["dimensions"],
        "n_discard": work.settings["n_discard"],
        "remark": work.settings["remark"],
    }


def _small_share(folder: Path, D: int, C: int) -> np.ndarray:
    """[C, G] share of each class's points in components of fewer than D points, by chain of the posterior there."""
    posterior = read_arrays(folder / "posterior.npz")
    # Kept labellings are in order of time, and of chains at each time.
    edges = posterior["group_offsets"].tolist()
    return np.stack([small_share(posterior["labels"][c::C], edges, D) for c in range(C)])


def _figure_b4(work: Work) -> dict[str, Any]:
    return {"fits": read_arrays(work.input("controls") / "fits.npz"), **_names_and_memorization(work)}


def _names_and_memorization(work: Work) -> dict[str, Any]:
    """Names of the classes and, where the profile has published scores, their memorization."""
    names, published = class_names(work), work.settings.get("published")
    scores = {"memorization": matched(published_memorization(published), names)} if published else {}
    return {"class_names": names, **scores}


def _by_name(found: Mapping[int, Mapping[str, np.ndarray]], *names: str) -> dict[str, dict[int, np.ndarray]]:
    """Arrays of several stages, by name and stage."""
    return {name: {stage: arrays[name] for stage, arrays in found.items()} for name in names}


def _figure_b5(work: Work) -> dict[str, Any]:
    stages = work.settings["stages"]
    found = {stage: read_arrays(work.input(f"leave_one_out_stage_{stage}") / "densities.npz") for stage in stages}
    return {
        **_by_name(found, "seen", "left_out", "effective_draws"),
        "labels": found[stages[0]]["labels"],
        **_names_and_memorization(work),
        "dimensions": {stage: values_of(work, stage).shape[1] for stage in stages},
        "remark": work.settings.get("remark", ""),
    }


def _figure_b7(work: Work) -> dict[str, Any]:
    stages = dict(zip(work.settings["stages"], work.settings["dimensions"], strict=True))
    densities = {stage: read_arrays(work.input(f"leave_one_out_stage_{stage}") / "densities.npz") for stage in stages}
    posteriors = {stage: read_arrays(work.input(f"posterior_stage_{stage}") / "posterior.npz") for stage in stages}
    # Densities and posteriors have their points sorted by class.
    by_class = np.argsort(train_labels(work), kind="stable")
    return {
        **_by_name(densities, "seen", "left_out"),
        "small": {
            stage: in_small_components(posteriors[stage]["labels"], posteriors[stage]["group_offsets"].tolist(), D)
            for stage, D in stages.items()
        },
        "memorization": train_scores(work)["value"][by_class],
        "dimensions": stages,
        "n_bins": work.settings["n_bins"],
        "remark": work.settings["remark"],
        "scale": {name: work.settings[name] for name in ("n_trials", "networks")},
    }


def _figure_b8(work: Work) -> dict[str, Any]:
    stages = work.settings["stages"]
    train = {stage: read_arrays(work.input(f"leave_one_out_stage_{stage}") / "densities.npz") for stage in stages}
    test = read_arrays(work.input("test_densities") / "densities.npz")
    return {
        **_by_name(train, "seen", "left_out"),
        "labels": train[stages[0]]["labels"],
        "test": {stage: test[f"stage_{stage}"] for stage in stages},
        "test_labels": test["labels"],
        "right": test["labels"] == test["predicted"],
        "class_names": class_names(work),
        "dimensions": {stage: values_of(work, stage).shape[1] for stage in stages},
        "remark": work.settings["remark"],
    }


def _figure_b9(work: Work) -> dict[str, Any]:
    places = work.settings["places"]
    names, dimensions = [place["name"] for place in places], [place["dimensions"] for place in places]
    densities = [read_arrays(work.input(f"leave_one_out_{name}") / "densities.npz") for name in names]
    posteriors = [read_arrays(work.input(f"posterior_{name}") / "posterior.npz") for name in names]
    scored = "n_trials" in work.settings
    return {
        "places": [place["title"] for place in places],
        "dimensions": dimensions,
        **{name: [found[name] for found in densities] for name in ("seen", "left_out", "effective_draws")},
        "small": [
            in_small_components(found["labels"], found["group_offsets"].tolist(), D)
            for found, D in zip(posteriors, dimensions, strict=True)
        ],
        "labels": densities[0]["labels"],
        "class_names": class_names(work),
        "n_bins": work.settings["n_bins"],
        # Densities have their points sorted by class.
        "memorization": train_scores(work)["value"][np.argsort(train_labels(work), kind="stable")] if scored else None,
        "scale": {name: work.settings[name] for name in ("n_trials", "networks")} if scored else None,
    }


def _figure_b10(work: Work) -> dict[str, Any]:
    stages = dict(zip(work.settings["stages"], work.settings["dimensions"], strict=True))
    traces = {stage: read_arrays(work.input(f"posterior_stage_{stage}") / "trace.npz") for stage in stages}
    return {
        "evidence": {s: read_arrays(work.input(f"state_evidence_stage_{s}") / "evidence.npz") for s in stages},
        "small_share": {
            stage: _small_share(work.input(f"posterior_stage_{stage}"), D, n_chains(traces[stage]))
            for stage, D in stages.items()
        },
        "class_names": class_names(work),
        "dimensions": stages,
    }


def _figure_b11(work: Work) -> dict[str, Any]:
    stages = dict(zip(work.settings["stages"], work.settings["dimensions"], strict=True))
    own = {stage: read_arrays(work.input(f"leave_one_out_stage_{stage}") / "densities.npz") for stage in stages}
    found = {stage: read_arrays(work.input(f"leave_one_out_layer{stage}") / "densities.npz") for stage in stages}

    def small(kind: str) -> dict[int, np.ndarray]:
        """Of all chains together."""
        return {stage: _small_share(work.input(f"posterior_{kind}{stage}"), D, 1)[0] for stage, D in stages.items()}

    return {
        "own": {stage: arrays["seen"] for stage, arrays in own.items()},
        **_by_name(found, "seen", "left_out", "effective_draws"),
        "own_small": small("stage_"),
        "small": small("layer"),
        "labels": found[next(iter(stages))]["labels"],
        "class_names": class_names(work),
        "dimensions": stages,
    }


def _by_number(work: Work, layers: list[str]) -> dict[str, Any]:
    """Log-densities, dimensions and means by chain of these layers, numbered from 1."""
    folders = {k: work.input(f"posterior_{layer}") for k, layer in enumerate(layers, start=1)}
    return {
        "log_density": {k: read_arrays(folder / "density.npz")["log_density"] for k, folder in folders.items()},
        "dimensions": {k: values_of(work, layer).shape[1] for k, layer in enumerate(layers, start=1)},
        "by_chain": _by_chain(folders),
    }


def _network(work: Work) -> dict[str, Any]:
    reached = read_json(work.input("network") / "network.json")
    words = f"{work.settings['network']}; {reached['train_accuracy']:.1%} of its training images and "
    words += f"{reached['test_accuracy']:.1%} of the test images are classified rightly"
    return {"labels": train_labels(work), "class_names": class_names(work), "network": words}


ARGUMENTS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "figure_1": _densities,
    "figure_2": _figure_2,
    "figure_3": _figure_3,
    "figure_4": _figure_4,
    "figure_a5": _figure_a5,
    "figure_a6": _figure_a6,
    "figure_a7": _densities,
    "figure_a8": _figure_a8,
    "figure_a9": _blocks,
    "figure_a10": _blocks,
    "figure_a11": _figure_a11,
    "figure_b1": _figure_b1,
    "figure_b2": _figure_b2,
    "figure_b3": _figure_b3,
    "figure_b4": _figure_b4,
    "figure_b5": _figure_b5,
    "figure_b6": _figure_b6,
    "figure_b7": _figure_b7,
    "figure_b8": _figure_b8,
    "figure_b9": _figure_b9,
    "figure_b10": _figure_b10,
    "figure_b11": _figure_b11,
}
"""Of `compute` of a figure's module, by its name."""
