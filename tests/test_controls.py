"""Controls of figure 1: which fits are made, what is read off each, and what the figure says of them."""

import numpy as np
import pytest
from made_controls import CELLS, NAMES, made_fits
from rich.console import Console
from scipy import stats
from tolerances import PEER_RELATIVE

from classfit import DPGaussianMixture
from paper_repro import controls
from paper_repro.chains import small_share
from paper_repro.controls import FITTED_SHARE, PAPER, VARIANTS, Fit, fit_classes, planned_fits
from paper_repro.figures import figure_b4
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PROFILES, PROTOCOLS
from paper_repro.steps import Work, derived_seed
from paper_repro.storage import read_arrays, write_arrays, write_json, write_tensors

SAMPLER = {
    "n_sweeps": 12,
    "n_discard": 4,
    "thin": 2,
    "block_size": 4,
    "n_init_components": 3,
    "official": False,
}
WORDS = {"subtitle": np.array("made"), "note": np.array("A note.")}


def two_classes(n: int = 30, D: int = 4):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], [n, n + 10]))
    return (rng.normal(size=(len(labels), D)) + 5 * labels[:, None]).astype(np.float32), labels


def test_every_seed_is_fitted_twice_in_every_cell_and_variants_in_the_last_but_one():
    fits = planned_fits(CELLS, 3, 1)
    assert len(fits) == len(set(fits)) == len({fit.file for fit in fits}) == 3 * 3 * 2 + len(VARIANTS) - 1
    assert [fit.seed for fit in fits] == sorted(fit.seed for fit in fits)
    variants = [fit for fit in fits if fit.variant != PAPER]
    assert {(fit.stage, fit.D, fit.seed, fit.share) for fit in variants} == {(3, 2, 0, 1.0)}
    assert {fit.variant for fit in variants} == set(VARIANTS) - {PAPER}
    for stage, D in CELLS:
        of_cell = [(f.seed, f.share) for f in fits if (f.stage, f.D, f.variant) == (stage, D, PAPER)]
        assert sorted(of_cell) == [(s, share) for s in range(3) for share in (FITTED_SHARE, 1.0)]


def test_a_fit_is_the_estimators():
    x, labels = two_classes()
    fit = Fit(3, 4, 1, 1.0, PAPER)
    found = fit_classes(x, labels, fit, SAMPLER, 7)
    options = {name: SAMPLER[name] for name in ("n_sweeps", "n_discard", "thin", "block_size", "n_init_components")}
    model = DPGaussianMixture(**options, random_state=derived_seed(7, "controls", 3, 4, 1, 1.0)).fit(x, groups=labels)
    density = model.score_samples(x, labels)
    for g in (0, 1):
        assert found["mean_in"][g] == pytest.approx(density[labels == g].mean(), rel=PEER_RELATIVE)
        assert found["std_in"][g] == pytest.approx(density[labels == g].std(), rel=PEER_RELATIVE)
    assert np.isnan(found["mean_out"]).all()
    assert np.isnan(found["mean_left_out"]).all()
    trace = model.trace_
    assert found["log_joint"] == pytest.approx(trace.log_joint[trace.sweep > 4].mean(0), rel=PEER_RELATIVE)
    assert found["n_components"] == pytest.approx(trace.n_components[trace.sweep > 4].mean(0), rel=PEER_RELATIVE)


def test_held_out_points_are_not_fitted(monkeypatch):
    x, labels = two_classes()
    seen = []
    fit = DPGaussianMixture.fit

    def spy(self, X, y=None, groups=None):
        seen.append(X)
        return fit(self, X, y, groups)

    monkeypatch.setattr(DPGaussianMixture, "fit", spy)
    found = fit_classes(x, labels, Fit(3, 4, 0, FITTED_SHARE, PAPER), SAMPLER, 0)
    fitted = {tuple(row) for row in seen[0]}
    out = np.array([tuple(row) not in fitted for row in x])
    assert np.bincount(labels[out]).tolist() == [6, 8]
    model = DPGaussianMixture(
        3, block_size=4, n_sweeps=12, n_discard=4, thin=2, random_state=derived_seed(0, "controls", 3, 4, 0, 0.8)
    ).fit(x[~out], groups=labels[~out])
    density, left_out = model.score_samples(x, labels), model.leave_one_out().log_density
    for g in (0, 1):
        own = labels[~out] == g
        assert found["mean_left_out"][g] == pytest.approx(left_out[own].mean(), rel=PEER_RELATIVE)
        assert found["mean_in"][g] == pytest.approx(density[~out & (labels == g)].mean(), rel=PEER_RELATIVE)
        assert found["mean_out"][g] == pytest.approx(density[out & (labels == g)].mean(), rel=PEER_RELATIVE)


def test_variants_reach_the_estimator(monkeypatch):
    x, labels = two_classes()
    made = []
    init = DPGaussianMixture.fit

    def spy(self, X, y=None, groups=None):
        made.append(self.get_params())
        return init(self, X, y, groups)

    monkeypatch.setattr(DPGaussianMixture, "fit", spy)
    ends = {}
    for variant in VARIANTS:
        ends[variant] = fit_classes(x, labels, Fit(3, 4, 0, 1.0, variant), SAMPLER, 0)["log_joint"]
    parameters = dict(zip(VARIANTS, made, strict=True))
    paper = parameters.pop(PAPER)
    changed = {v: {k: p[k] for k in p if p[k] != paper[k]} for v, p in parameters.items()}
    assert list(changed.values()) == [
        {"block_size": 1},
        {"corrected": True},
        {"kappa0": 0.001},
        {"S0_scale": 2.0},
    ]
    assert all((ends[v] != ends[PAPER]).any() for v in parameters)


def test_share_of_points_in_small_components():
    labels = np.array([[0, 0, 0, 1, 2, 2, 0, 0], [0, 1, 2, 3, 4, 4, 0, 0]])
    found = small_share(labels, [0, 6, 8], D=2)
    assert found.tolist() == pytest.approx([(1 + 4) / 2 / 6, 0])


def test_a_run_goes_on_where_it_was_and_gathers_every_fit(tmp_path, monkeypatch):
    x, labels = two_classes()
    import torch

    inputs = {name: tmp_path / name for name in ("dataset", "wide_representations")}
    for folder in inputs.values():
        folder.mkdir()
    write_tensors(inputs["dataset"] / "data.safetensors", {"train_labels": torch.from_numpy(labels)})
    write_json(inputs["dataset"] / "dataset.json", {"class_names": ["ant", "elk"]})
    for stage in (1, 3):
        write_arrays(inputs["wide_representations"] / f"layer{stage}.npz", {"values": x * stage})
    settings = {**SAMPLER, "seed": 0, "cells": CELLS, "n_seeds": 2, "n_variant_seeds": 1}
    work = Work(tmp_path / "controls", settings, inputs, Console(quiet=True))
    monkeypatch.setattr("paper_repro.workers.n_workers", lambda: 1)
    work.folder.mkdir()
    fit_classes, made = controls.fit_classes, []

    def killed(x, labels, fit, *rest):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append((fit, x.shape[1]))
        return fit_classes(x, labels, fit, *rest)

    monkeypatch.setattr(controls, "fit_classes", killed)
    with pytest.raises(KeyboardInterrupt):
        controls.controls(work)
    first, made[:] = list(made), []
    monkeypatch.setattr(controls, "fit_classes", lambda x, y, f, *r: made.append(f) or fit_classes(x, y, f, *r))
    controls.controls(work)
    fits = planned_fits(CELLS, 2, 1)
    assert [fit for fit, _ in first] + made == fits
    assert all(fit.D == D for fit, D in first)
    stored = read_arrays(work.folder / "fits.npz")
    k = fits.index(Fit(3, 2, 1, FITTED_SHARE, PAPER))
    assert (stored["stage"][k], stored["D"][k], stored["seed"][k], stored["share"][k]) == (3, 2, 1, FITTED_SHARE)
    expected = fit_classes(np.ascontiguousarray(3 * x[:, :2]), labels, fits[k], settings, 0)
    assert set(expected) == set(controls.STATISTICS)
    for name, value in expected.items():
        assert np.array_equal(stored[name][k], value, equal_nan=True)
    assert controls.estimate_controls(work) == 0
    (work.folder / "checkpoint-fits" / fits[0].file).unlink()
    assert controls.estimate_controls(work) > 0


def test_figure_b4_finds_each_fit():
    def shattered(fit, g):
        return fit.D == 4 and g < (2 if fit.share < 1 else 1) + (fit.seed == 2)

    stored = figure_b4.compute(made_fits(shattered), NAMES) | WORDS
    assert sorted(stored["cells"].tolist()) == sorted(CELLS)
    c = stored["cells"].tolist().index([3, 4])
    assert stored["fitted_shares"].tolist() == [1.0, FITTED_SHARE]
    assert stored["shattered"].sum((3,))[c].tolist() == [[1, 1, 2], [2, 2, 3]]
    assert stored["shattered"].sum() == stored["shattered"][c].sum()
    rows = [r for r in figure_b4.table(stored) if r["dimensions"] == 4 and r["share_of_points_fitted"] < 1]
    by_class = {row["class"]: row for row in rows}
    assert [by_class[name]["n_shattered"] for name in NAMES] == [3, 3, 1, 0, 0, 0]
    assert by_class["c"]["shattered_mean_out_nats"] == -20
    assert by_class["c"]["collapsed_mean_in_nats"] == 0
    assert np.isnan(by_class["f"]["shattered_log_joint_nats"])


def test_figure_b4_compares_variants_over_the_same_seeds():
    """Two of each variant; the paper's settings have three, of which seed s has 1 + s classes shattered."""

    def shattered(fit, g):
        return (fit.stage, fit.D, fit.share) == (3, 2, 1.0) and g < (1 + fit.seed if fit.variant == PAPER else 3)

    stored = figure_b4.compute(made_fits(shattered), NAMES)
    assert stored["variant_cells"].tolist() == [[3, 2]]
    assert stored["variant_shattered"].tolist() == [[1.5] + [3.0] * (len(VARIANTS) - 1)]


def test_figure_b4_shows_fits_to_all_points():
    stored = figure_b4.compute(made_fits(lambda fit, g: fit.D == 4 and fit.share < 1 and g == 0), NAMES) | WORDS
    mesh = next(axes.collections[0] for axes in figure_b4.draw(stored).axes if axes.collections)
    assert not np.asarray(mesh.get_array()).any()


def test_figure_b4_draws_what_it_says():
    """One more class with each seed, and with four fifths of the points; as many as its number with a variant."""
    number = list(VARIANTS).index

    def shattered(fit, g):
        n = fit.seed + (fit.share < 1) if fit.D == 4 else number(fit.variant)
        return g in (3, 0, 5, 1)[:n]

    stored = figure_b4.compute(made_fits(shattered), NAMES, np.arange(6) / 6) | WORDS
    panels = {axes.get_title("left"): axes for axes in figure_b4.draw(stored).axes}
    top = panels["Number of seeds (others than figure 1's) with which a class is shattered"]
    names = [label.get_text() for label in top.get_xticklabels()]
    counted = dict(zip(names, np.asarray(top.collections[0].get_array())[-1].tolist(), strict=True))
    assert counted == {"b": 0, "c": 0, "e": 0, "f": 0, "a": 1, "d": 2}
    marks = {line.get_marker(): line.get_xydata().tolist() for line in panels["Stage 3, D = 4"].lines}
    assert marks["o"] == [[0, -5]] * 12
    assert marks["D"] == [[50, -20]] * 6
    key = [text.get_text() for text in panels["Stage 3, D = 4"].get_legend().get_texts()]
    assert key == ["collapsed (12 fits)", "shattered (6 fits)", "equal"]
    bars = panels["Other samplers and priors"]
    labels = dict(zip(bars.get_yticks().tolist(), [label.get_text() for label in bars.get_yticklabels()], strict=True))
    found = {labels[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() for bar in bars.patches}
    of_paper = "the paper's sampler,\nother seeds than figure 1's"
    assert found == {of_paper if name == PAPER else name: number(name) for name in VARIANTS}
    (line,) = panels["Shattering and memorization"].lines
    assert line.get_xdata().tolist() == stored["memorization"].tolist()
    assert line.get_ydata() == pytest.approx([3 / 6, 0, 0, 5 / 6, 0, 1 / 6], rel=PEER_RELATIVE)


def test_figure_b4_in_words():
    def shattered(fit, g):
        return fit.D == 4 and fit.variant == PAPER and g < fit.seed + (fit.share < 1)

    words = figure_b4.finding(figure_b4.compute(made_fits(shattered), NAMES, np.arange(6)[::-1] / 6) | WORDS)
    assert words.startswith(
        "By seed (others than figure 1's), stage 3, D = 4: 0 to 2 of 6 classes shattered, 1 to 3 with"
    )
    assert "fitted to all points, 2 classes are shattered with some of these seeds and 0 with all 3" in words
    # Sets {}, {a}, {a, b}: 0/1, 0/2 and 1/2 are shared.
    assert "two seeds share 17% of the classes that either shatters" in words
    assert "mean log-density of 50.0 nats on points that they saw and -20.0 on others; collapsed fits 0.0 and" in words
    assert (
        "Of 2 classes with seeds of both kinds the shattered fits are worse on new points in 2, by 15.0 nats" in words
    )
    assert (
        "differ from these others by +0.0 ± 0.0 nats in collapsed fits and +3.0 ± 0.0 nats in shattered fits (mean and"
        in words
    )
    expected = stats.spearmanr([5 / 6, 3 / 6, 1 / 6, 0, 0, 0], range(6, 0, -1)).statistic
    assert (
        f"tendency to shatter at stage 3 with its published mean memorization: +{expected:.2f} (95% interval" in words
    )
    assert "other samplers and priors shatter between 0 and 0 classes. " in words
    exact = "single points instead of blocks of 4"
    by_sampler = made_fits(lambda fit, g: (fit.D == 4 and fit.variant == PAPER) or (fit.variant == exact and g < 1))
    words = figure_b4.finding(figure_b4.compute(by_sampler, NAMES) | WORDS)
    assert f"other samplers and priors shatter between 0 and 1 classes, most with {exact}." in words
    none = figure_b4.compute(made_fits(lambda fit, g: False), NAMES) | WORDS
    assert figure_b4.finding(none) == "No class is shattered in any fit."
    assert "A note." in figure_b4.caption(none)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_figure_b4_draws_any_numbers(known, share):
    draws = np.random.default_rng(0)
    fits = made_fits(lambda fit, g: draws.random() < share)
    stored = figure_b4.compute(fits, NAMES, np.linspace(0, 1, 6) if known else None) | WORDS
    titles = [axes.get_title("left") for axes in figure_b4.draw(stored).axes]
    assert ("Shattering and memorization" in titles) == known
    assert "Number of seeds (others than figure 1's) with which a class is shattered" in titles


def test_what_is_computed_as_published_has_no_controls_and_no_points_left_out():
    pipeline = Pipeline(PROFILES["digits"], PROTOCOLS["paper"], official=True)
    assert pipeline.controls == {}
    assert pipeline.left_out == {}
    assert not {"figure_b4", "figure_b5", "figure_b6", "figure_b7", "figure_b8", "figure_b9"} & set(pipeline.figures)
