"""What the estimators and the posterior take: names of groups, random states, numbers of numpy, arrays of odd kinds."""

import json
import tracemalloc
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import sklearn
import torch
from cases import three_groups
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from classfit import ClassConditionalDensity, ConstantFeatureWarning, DPGaussianMixture, GaussianMixture, Posterior
from classfit.groups import index_of, sort_by_group
from classfit.prior import group_variances, niw_prior
from classfit.protocols import heldout

QUICK = {"n_sweeps": 8, "n_discard": 4, "thin": 2, "random_state": 0}


@pytest.fixture(scope="module")
def points():
    X, names = three_groups()
    more = names != "elk"
    return X[more], names[more]


@pytest.fixture(scope="module")
def model(points):
    return DPGaussianMixture(**QUICK).fit(points[0], groups=points[1])


@pytest.mark.parametrize("estimator", [DPGaussianMixture(**QUICK), GaussianMixture(2, random_state=0)])
def test_tensors_are_taken_as_a_network_gives_them(points, estimator):
    X, names = torch.from_numpy(points[0]).bfloat16(), points[1]
    expected = estimator.fit(X.float().numpy(), groups=names).score_samples(X.float().numpy(), names)
    for given in (X, X.float().requires_grad_(), X.float().unsqueeze(0)[0]):
        assert np.array_equal(estimator.fit(given, groups=names).score_samples(given, names), expected)
    assert ClassConditionalDensity(estimator).fit(X, names).predict(X).shape == names.shape
    # So are labels.
    index = torch.from_numpy(np.unique(names, return_inverse=True)[1])
    labels, numbers = index.float().requires_grad_(), index.numpy().astype(np.float32)
    expected = estimator.fit(X, groups=numbers).score_samples(X, numbers)
    assert np.array_equal(estimator.fit(X, groups=labels).score_samples(X, labels), expected)
    assert ClassConditionalDensity(estimator).fit(X, labels).predict(X).shape == names.shape


def test_tensors_are_taken_by_posteriors_and_folds(model, points):
    X, names = torch.from_numpy(points[0]).bfloat16().requires_grad_(), points[1]
    plain = X.detach().float().numpy()
    assert np.array_equal(*(model.posterior_.log_density(given) for given in (X, plain)))
    fits = [heldout(given, names, n_folds=2, random_state=0, protocol=None) for given in (X, plain)]
    assert np.array_equal(fits[0].log_density, fits[1].log_density)


def test_probabilities_of_components(model, points):
    X, names = points
    shares = model.predict_proba(X, names)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    assert np.array_equal(shares[:, :-1].argmax(1), model.predict(X, names))


@pytest.mark.parametrize("estimator", [DPGaussianMixture(**QUICK), GaussianMixture(2, random_state=0)])
def test_one_named_group_needs_no_names(points, estimator):
    X = points[0]
    estimator.fit(X, groups=["fox"] * len(X))
    assert np.array_equal(estimator.score_samples(X), estimator.score_samples(X, ["fox"] * len(X)))
    assert np.array_equal(estimator.predict(X), estimator.predict(X, ["fox"] * len(X)))


def test_a_mixture_holds_no_masks_of_its_components():
    """One component a point would be n^2 bytes a sweep."""
    n, S = 2000, 4
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 1)))
    mean, variance = group_variances(x, torch.tensor([0, n]))
    prior = niw_prior(mean, variance, 1)
    labels = np.tile(np.arange(n) // 10, (S, 1))
    labels[:, ::10] = np.random.default_rng(1).permuted(labels[:, ::10], axis=1)
    posterior = Posterior(x, torch.tensor([0, n]), np.array([0]), labels, np.ones((S, 1)), prior, variance)
    tracemalloc.start()
    posterior.mixture(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < S * (n // 10) * n / 2


# --- Names of groups


@pytest.mark.parametrize("groups", ["fox", ["fox"], ["fox"] * 86, [["fox"]] * 85, [["fox", "ant"]] * 85])
@pytest.mark.parametrize("method", ["predict", "score_samples"])
def test_one_name_a_row_is_asked_for_at_scoring(model, points, method, groups):
    with pytest.raises(ValueError, match=r"groups must hold one name for each of 85 rows of X, got shape \["):
        getattr(model, method)(points[0], groups)
    with pytest.raises(ValueError, match="one name for each of 85 rows"):
        model.posterior_.component_probabilities(points[0], groups)


@pytest.mark.parametrize(
    ("groups", "kinds"),
    [([1] * 30 + ["b"] * 30, "int, str"), ((True, "b"), "bool, str")],
)
def test_mixed_names_in_a_list_are_refused(groups, kinds):
    with pytest.raises(ValueError, match=f"groups must be all numbers or all strings, got {kinds}"):
        sort_by_group(groups, len(groups))
    with pytest.raises(ValueError, match=f"groups must be all numbers or all strings, got {kinds}"):
        index_of(groups, np.array(["a", "b"]), len(groups))


class NotAvailable:
    """As pandas' NA: equal to nothing, and neither true nor false."""

    __hash__ = None

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise TypeError

    def __repr__(self):
        return "<NA>"


@pytest.mark.parametrize("missing", [None, np.nan, NotAvailable()])
@pytest.mark.parametrize("kind", [list, lambda names: np.array(names, dtype=object)])
def test_a_missing_name_is_told_by_its_row(missing, kind):
    with pytest.raises(ValueError, match=f"groups must not hold {missing!r}, got one in row 2"):
        sort_by_group(kind(["a", "b", missing, "a"]), 4)


@pytest.mark.parametrize(
    "groups", [["b", "ant"], [2, 1], [2.5, 1], [True, False], [np.int8(2), np.int8(1)], (np.str_("b"), "a")]
)
def test_names_of_lists_have_the_dtype_of_numpy(groups):
    names = sort_by_group(groups, 2).names
    assert names.dtype == np.asarray(groups).dtype
    assert names.tolist() == sorted(groups)


@pytest.mark.parametrize(
    ("groups", "word"),
    [
        (np.array([1.0, np.nan]), "nan"),
        (np.array(["2020-01-01", "NaT"], "M8[D]"), "NaT"),
        (np.array([1j, np.nan]), "nan"),
    ],
)
def test_names_that_are_none_are_refused(groups, word):
    with pytest.raises(ValueError, match=rf"groups must not hold .*{word}.*, got one in row 1"):
        sort_by_group(groups, 2)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy 2 has strings of any length")
def test_strings_of_any_length_are_names(points, tmp_path):
    X, groups = points[0], np.asarray(points[1]).astype(str)
    model = DPGaussianMixture(**QUICK).fit(X, groups=groups.astype(np.dtypes.StringDType()))
    assert model.groups_.dtype.kind == "U"
    model.posterior_.save(tmp_path / "p.npz")
    assert np.array_equal(
        model.score_samples(X, groups), model.score_samples(X, groups.astype(np.dtypes.StringDType()))
    )


@pytest.mark.parametrize("odd", [2**70, Fraction(1, 3), Decimal("0.1")])
def test_numbers_that_numpy_has_no_type_for_are_refused(odd):
    with pytest.raises(ValueError, match=f"groups must hold numbers that numpy has a type for, .*{type(odd).__name__}"):
        sort_by_group([1, odd], 2)


@pytest.mark.parametrize("kind", [list, lambda names: np.array(names, dtype=object)])
@pytest.mark.parametrize(
    "groups", [[2**63 + 1, 2**63 + 3, -1], [2**53, 2**53 + 1, 0.5], ["ant", "ant\0"]], ids=["wide", "float", "nul"]
)
def test_names_that_numpy_would_make_one_are_refused(groups, kind):
    """Of the first two numbers a float makes one; of the strings a null at the end."""
    with pytest.raises(ValueError, match="groups must hold names that numpy keeps as they are, got "):
        sort_by_group(kind(groups), len(groups))
    with pytest.raises(ValueError, match="groups must hold names that numpy keeps as they are, got "):
        index_of(kind(groups), np.array(["ant"]), len(groups))


@pytest.mark.parametrize("protocol", [None, "converged"])
def test_a_fit_that_is_stopped_leaves_the_one_before(points, monkeypatch, protocol):
    """Another number of features, and stopped in the sampler."""
    X = points[0]
    model = DPGaussianMixture(**QUICK).fit(X)
    expected, trace = model.score_samples(X), model.trace_
    name = "_run_chain" if protocol is None else "_run_chains"

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(DPGaussianMixture, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        model.set_params(protocol=protocol).fit(X[:, :2])
    assert np.array_equal(model.score_samples(X), expected)
    assert model.trace_ is trace


def test_a_fit_of_em_that_is_stopped_leaves_the_one_before(points):
    X, names = points
    model = GaussianMixture(random_state=0).fit(X)
    expected = model.score_samples(X)
    with pytest.raises(ValueError, match="groups must hold one name"):
        model.fit(X[:, :2], groups=names[:5])
    assert np.array_equal(model.score_samples(X), expected)


@pytest.mark.parametrize("estimator", [DPGaussianMixture(**QUICK), GaussianMixture()])
def test_a_first_fit_that_fails_leaves_no_fit(estimator, points):
    estimator = sklearn.clone(estimator)
    with pytest.raises(ValueError, match="groups must hold one name"):
        estimator.fit(points[0], groups=[1, 2])
    for method in ("score_samples", "predict", "class_log_density"):
        with pytest.raises(NotFittedError):
            getattr(estimator, method)(points[0])


def test_an_unknown_name_among_objects_is_named():
    for groups in (["ant", "cow"], np.array(["ant", "cow"], dtype=object)):
        with pytest.raises(ValueError, match="groups holds 'cow', which was not among the fitted groups"):
            index_of(groups, np.array(["ant", "fox"]), 2)


@pytest.mark.parametrize("estimator", [GaussianMixture(), DPGaussianMixture(**QUICK)])
def test_metadata_routing_gives_groups_to_the_estimator(estimator, points):
    X, names = points
    folds = KFold(2)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator.set_fit_request(groups=True).set_score_request(groups=True)
        found = cross_val_score(estimator, X, cv=folds, params={"groups": names})
    for score, (train, test) in zip(found, folds.split(X), strict=True):
        assert score == estimator.fit(X[train], groups=names[train]).score(X[test], groups=names[test])


# --- Numbers and random states


def test_numbers_of_numpy_are_numbers(points, tmp_path):
    numpy = {"kappa0": np.float32(0.5), "nu0": np.int64(7), "S0_scale": np.float64(2), "official": np.True_}
    python = {"kappa0": 0.5, "nu0": 7, "S0_scale": 2.0, "official": True}
    fits = [DPGaussianMixture(**QUICK, **settings).fit(points[0]) for settings in (numpy, python)]
    assert np.array_equal(*(fit.score_samples(points[0]) for fit in fits))
    fits[0].posterior_.save(tmp_path / "posterior.npz")
    search = GridSearchCV(DPGaussianMixture(**QUICK), {"nu0": np.arange(5, 7)}, cv=2).fit(points[0])
    assert search.best_params_["nu0"] in (5, 6)


def test_the_default_prior_is_written_as_ever_into_the_identity_of_a_checkpoint():
    assert json.dumps(DPGaussianMixture()._prior(3)) == '{"kappa0": 0.01, "nu0": null, "S0_scale": 1.0}'


@pytest.mark.parametrize("kind", [np.random.RandomState, np.random.default_rng])
def test_random_states_go_on_where_they_are(model, points, kind):
    X = points[0]
    for draw in (
        lambda state: model.posterior_.sample(3, "fox", state),
        lambda state: model.posterior_.kl_divergence(10, state).value,
        lambda state: model.posterior_.relative_entropy(10, state).value,
        lambda state: DPGaussianMixture(**QUICK | {"random_state": state}).fit(X).sample(3),
        lambda state: GaussianMixture(3, random_state=state).fit(X).sample(3)[0],
    ):
        state, again = kind(1), kind(1)
        first, second = draw(state), draw(state)
        assert np.array_equal(draw(again), first)
        assert not np.array_equal(first, second)


@pytest.mark.parametrize("method", ["kl_divergence", "relative_entropy"])
def test_a_generator_is_gone_on_with_whatever_it_was_made_from(model, method):
    def draw(generator):
        return getattr(model.posterior_, method)(10, generator).value

    used = np.random.default_rng(1)
    state = used.bit_generator.state
    expected = draw(used)
    assert used.bit_generator.state != state
    assert not np.array_equal(draw(used), expected)
    used.bit_generator.state = state
    assert np.array_equal(draw(used), expected)
    # A bit generator made from a key has no seed sequence that could be spawned from.
    assert np.isfinite(draw(np.random.Generator(np.random.Philox(key=5)))).all()


@pytest.mark.parametrize("bad", ["0", 0.5, -1])
def test_other_random_states_are_refused(model, points, bad):
    for draw in (
        lambda: model.posterior_.sample(3, "fox", bad),
        lambda: model.posterior_.kl_divergence(10, bad),
        lambda: GaussianMixture(random_state=bad).fit(points[0]),
        lambda: DPGaussianMixture(random_state=bad).fit(points[0]),
    ):
        with pytest.raises(ValueError, match=f"random_state must be an int from 0 to .* got {bad!r}"):
            draw()


@pytest.mark.parametrize("n_draws", [0, 1, 10.0, True])
@pytest.mark.parametrize("method", ["kl_divergence", "relative_entropy"])
def test_estimates_take_two_draws_or_more(model, method, n_draws):
    with pytest.raises(ValueError, match=f"n_draws must be an integer of at least 2, got {n_draws}"):
        getattr(model.posterior_, method)(n_draws)


def test_a_setting_that_is_refused_leaves_the_fit_as_it_was(points):
    X = points[0]
    model = DPGaussianMixture(**QUICK).fit(X)
    expected = model.score_samples(X)
    for bad in ({"thin": 0}, {"kappa0": -1.0}, {"nu0": -2.0}):
        with pytest.raises(ValueError, match="must be"):
            model.set_params(**bad).fit(X[:, :2])
        model.set_params(**{name: getattr(DPGaussianMixture(**QUICK), name) for name in bad})
        assert np.array_equal(model.score_samples(X), expected)


# --- Arrays


def test_read_only_and_foreign_arrays_are_read_without_a_warning(model, points):
    X, names = points
    read_only = X.copy()
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in (read_only, X.astype(">f8"), np.asfortranarray(X), X.tolist()):
            assert np.array_equal(model.posterior_.log_density(same), model.posterior_.log_density(X))
        assert np.array_equal(model.score_samples(read_only, names), model.score_samples(X, names))


def test_points_that_are_no_real_numbers_are_refused(model, points):
    for bad in (points[0].astype(str), points[0] + 0j, points[0].astype(object)):
        with pytest.raises(ValueError, match=f"X must hold real numbers, got an array of dtype {bad.dtype}"):
            model.posterior_.log_density(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite_are_told_by_their_row_of_x(model, points, value):
    X, names = points[0].copy(), points[1]
    row = np.flatnonzero(names != names[0])[3]
    X[row, 1] = value
    for method in (model.posterior_.log_density, model.posterior_.component_probabilities):
        with pytest.raises(ValueError, match=f"X must be finite, got 1 rows that are not, the first is row {row}$"):
            method(X, names)


def test_points_beyond_the_dtype_of_the_fit_are_refused_in_words(points):
    single = DPGaussianMixture(**QUICK).fit(points[0].astype(np.float32))
    far = np.full((1, 3), 1e200)
    with pytest.raises(ValueError, match=r"X must be within 3\.4e\+38, the largest number of torch\.float32.* 1e\+200"):
        single.score_samples(far)
    assert single.predict(far).shape == (1,)
    assert np.isfinite(DPGaussianMixture(**QUICK).fit(points[0]).score_samples(far / 1e100)).all()


def test_points_whose_squares_overflow_are_refused_in_words(points):
    with pytest.raises(ValueError, match="X must be scaled down: the squares of feature 0 of group ant add up to more"):
        DPGaussianMixture(**QUICK).fit(points[0] * 1e160, groups=points[1])


@pytest.mark.parametrize("scale", [1e-160, 1e-300])
def test_features_whose_squares_vanish_count_as_constant(points, scale):
    X = np.column_stack([points[0], points[0][:, 0] * scale])
    for estimator in (DPGaussianMixture(**QUICK), GaussianMixture()):
        with pytest.warns(
            ConstantFeatureWarning, match="or vary by less than can be squared, .* feature 3 of group ant"
        ):
            estimator.fit(X, groups=points[1])
        assert np.isfinite(estimator.score_samples(X, points[1])).all()


@pytest.mark.parametrize(("dtype", "scale"), [(np.float64, 2.0**-400), (np.float32, 2.0**-100)])
def test_small_points_have_the_density_of_large_ones(points, dtype, scale):
    X, names = points[0].astype(dtype), points[1]
    found, expected = (
        DPGaussianMixture(**QUICK).fit(x, groups=names).score_samples(x, names) for x in ((X * scale).astype(dtype), X)
    )
    assert found == pytest.approx(expected - X.shape[1] * np.log(scale), abs=1e-3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"group_offsets": np.array([0, 25, 84])}, r"group_offsets must rise from 0 to 85, got \[0, 25, 84\]"),
        ({"group_offsets": np.array([0, 85])}, r"group_offsets must have shape \[3\], got \[2\]"),
        ({"labels": np.zeros((2, 84), np.int32)}, r"labels must have shape \[2, 85\], got \[2, 84\]"),
        ({"labels": np.zeros((2, 85))}, "labels must be integers from 0 to 84, got float64"),
        ({"labels": np.full((2, 85), 85)}, "labels must be integers from 0 to 84, got int64 from 85 to 85"),
        (
            {"labels": np.repeat([[0], [1]], 85, 1)},
            r"labels must be 0..K - 1 in each group, without gaps, got one in row 1, group ant",
        ),
        ({"alpha": np.ones((2, 3))}, r"alpha must have shape \[2, 2\], got \[2, 3\]"),
        (
            {"groups": np.array(["fox", "ant"])},
            r"groups must be names in rising order, each once, got \['fox', 'ant'\]",
        ),
        ({"groups": np.array(["ant", "ant"])}, "groups must be names in rising order"),
        ({"S0": np.ones((2, 3, 2))}, r"prior.S0 must have shape \[2, 3, 3\], got \[2, 3, 2\]"),
    ],
)
def test_a_stored_posterior_that_does_not_fit_together_is_refused(model, tmp_path, bad, message):
    path = tmp_path / "posterior.npz"
    model.posterior_.save(path)
    assert torch.equal(Posterior.load(path).x, model.posterior_.x)
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(path, **arrays | bad)
    with pytest.raises(ValueError, match=rf"posterior\.npz is not a saved posterior: {message}"):
        Posterior.load(path)
