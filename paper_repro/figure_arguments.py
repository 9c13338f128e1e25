"""What figures 3, 4, A.11 and B.1 to B.4 are computed from: the files of their steps."""

from typing import Any

import numpy as np

from paper_repro.published import class_memorization, matched, published_memorization
from paper_repro.robustness import input_of
from paper_repro.steps import Work
from paper_repro.storage import read_arrays, read_json, read_tensors

__all__ = ["figure_3", "figure_4", "figure_a11", "figure_b1", "figure_b2", "figure_b3", "figure_b4"]


def figure_3(work: Work) -> dict[str, Any]:
    from classfit import density_groups
    from paper_repro.attacks import ATTACKS
    from paper_repro.figures.class_density import class_statistics

    (labels, names), scores = _labels_and_names(work), _scores(work)
    log_density = read_arrays(input_of(work, "posterior_stage_4") / "density.npz")["log_density"]
    high = density_groups(class_statistics(log_density, labels, len(names))[0]).high
    bins = read_arrays(input_of(work, "density_bins") / "bins.npz")
    certificates = read_arrays(input_of(work, "certification") / "certificates.npz")
    attacked = read_arrays(input_of(work, "attacks") / "attacks.npz")
    about = read_json(work.inputs["dataset"] / "dataset.json")
    return {
        "log_density": log_density,
        "memorization": scores["value"],
        "memorization_error": scores["standard_error"],
        "bins": bins["bins"],
        "labels": labels,
        "high": high,
        "predicted": bins["predicted"],
        "certified_rows": certificates["rows"],
        "smoothed": certificates["predicted"],
        "radius": certificates["radius"],
        "pixels_per_unit": float(np.min(about["std"])),
        "attacked_rows": attacked["rows"],
        "survived": {attack.title: attacked[name] for name, attack in ATTACKS.items()},
        "budgets": {attack.title: attacked[f"{name}_budgets"] for name, attack in ATTACKS.items()},
        "scale": {name: work.settings[name] for name in ("sigma", "n0", "n", "alpha", "n_trials", "networks")},
    }


def figure_4(work: Work) -> dict[str, Any]:
    stored, (_, names) = read_arrays(input_of(work, "kl_by_stage") / "kl.npz"), _labels_and_names(work)
    scores, stages = _scores(work)["value"], work.settings["stages"]
    kinds = ("most", "random", "least")
    threshold = work.settings["threshold"]

    def over_stages(key: str) -> dict[str, np.ndarray]:
        return {kind: np.stack([stored[f"{kind}_{key}_{stage}"] for stage in stages]) for kind in kinds}

    return {
        "stages": stages,
        "divergence": over_stages("value"),
        "standard_error": over_stages("standard_error"),
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


def figure_a11(work: Work) -> dict[str, Any]:
    stored, (labels, _) = read_arrays(input_of(work, "generative") / "generative.npz"), _labels_and_names(work)
    scores, kinds = _scores(work)["value"], ("most", "random", "least")
    rows = {kind: stored[f"{kind}_rows"] for kind in kinds}
    return {
        "stages": work.settings["stages"],
        "predicted": {kind: stored[f"{kind}_predicted"] for kind in kinds},
        "labels": {kind: labels[rows[kind]] for kind in kinds},
        "memorization": {kind: scores[rows[kind]] for kind in kinds},
        "n_fitted": len(labels) - sum(map(len, rows.values())),
        "scale": {name: work.settings[name] for name in ("n_trials", "networks")},
    }


def figure_b1(work: Work) -> dict[str, Any]:
    (labels, names), stages = _labels_and_names(work), work.settings["stages"]
    folders = {stage: input_of(work, f"posterior_stage_{stage}") for stage in stages}
    return {
        "log_density": {stage: read_arrays(folder / "density.npz")["log_density"] for stage, folder in folders.items()},
        "labels": labels,
        "class_names": names,
        "dimensions": dict(zip(stages, work.settings["dimensions"], strict=True)),
        "memorization": matched(published_memorization(work.settings["published"]), names),
    }


def figure_b2(work: Work) -> dict[str, Any]:
    labels, names = _labels_and_names(work)
    ours = class_memorization(_scores(work)["value"], labels, names)
    return {
        "ours": np.array([ours[name].mean for name in names]),
        "published": matched(published_memorization(work.settings["published"]), names),
        "class_names": names,
        **{name: work.settings[name] for name in ("n_trials", "networks")},
    }


def figure_b3(work: Work) -> dict[str, Any]:
    stages = work.settings["stages"]
    return {
        "traces": {stage: read_arrays(input_of(work, f"posterior_stage_{stage}") / "trace.npz") for stage in stages},
        "class_names": read_json(work.inputs["dataset"] / "dataset.json")["class_names"],
        "dimensions": work.settings["dimensions"],
        "n_discard": work.settings["n_discard"],
    }


def figure_b4(work: Work) -> dict[str, Any]:
    names, published = read_json(work.inputs["dataset"] / "dataset.json")["class_names"], work.settings["published"]
    scores = {"memorization": matched(published_memorization(published), names)} if published else {}
    return {"fits": read_arrays(input_of(work, "controls") / "fits.npz"), "class_names": names, **scores}


def _labels_and_names(work: Work) -> tuple[np.ndarray, list[str]]:
    data, _ = read_tensors(work.inputs["dataset"] / "data.safetensors")
    return data["train_labels"].numpy(), read_json(work.inputs["dataset"] / "dataset.json")["class_names"]


def _scores(work: Work) -> dict[str, np.ndarray]:
    return read_arrays(input_of(work, "memorization") / "scores.npz")
