"""Show that the tests notice faults: `python tests/planted_faults.py [WORD ...]`, with words to choose faults by name.

One fault at a time is planted in a copy of the packages and the tests, in a temporary folder, and the few tests that
should notice are run there. Exits with 1 if the tests pass in spite of a fault, if they fail without one, or if the
text that a fault replaces is no longer in the code exactly once. Takes minutes: compiled code is compiled anew.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
COPIED = ["benchmarks", "classfit", "kernels", "paper_repro", "tests", "pyproject.toml"]


class Fault(NamedTuple):
    name: str
    file: str
    old: str
    """Found exactly once in the file."""
    new: str
    tests: tuple[str, str]
    """File under tests/, and an expression that selects the tests in it that should notice (pytest's -k)."""


SCIPY = ("test_reference.py", "scipy")
SCIKIT = ("test_reference.py", "scikit")
GAUSSIAN = ("test_log_densities.py", "equal_the_reference and gaussian and dtype1 and 10.0")
STUDENT_T = ("test_log_densities.py", "equal_the_reference and student_t and dtype1 and 10.0")
EM = ("test_em_statistics.py", "equal_the_reference and dtype1 and 10.0")
MOMENTS = ("test_component_statistics.py", "equal_the_reference and dtype1")
SMALL = "test_small_components.py"
PARTITIONS = ("test_gibbs.py", "203_partitions and 0.7")
SPLIT_MERGE = ("test_split_merge.py", "split_merge_samples_the_posterior and factors")
PEELS = ("test_split_merge.py", "split_merge_samples_the_posterior and two_candidates")
BY_PRODUCTS = ("test_split_merge.py", "moves_of_the_reference and products and 5-None")
RELATIVE_ENTROPY = ("test_relative_entropy.py", "integrals")
LEFT_OUT = ("test_leave_one_out.py", "ratio_of_marginal or all_points")
BLOCKS = ("test_split_merge.py", "corrected_blocks_sample and 4")

FAULTS = [
    # The reference: against scipy and scikit-learn.
    Fault("reference: factor transposed", "kernels/reference.py", "w.tril().T)", "w.tril())", SCIPY),
    Fault("reference: garbage above the diagonal read", "kernels/reference.py", "w.tril().T)", "w.T)",
          ("test_log_densities.py", "above_the_diagonal and reference")),
    Fault("reference: Gaussian without log-determinant", "kernels/reference.py",
          "math.log(2 * math.pi) + _half_log_det_precision(precision_chol)", "math.log(2 * math.pi)", SCIPY),
    Fault("reference: df for df + D", "kernels/reference.py",
          "log_normaliser - 0.5 * (df + D) *", "log_normaliser - 0.5 * df *", SCIPY),
    Fault("reference: logsumexp without its maximum", "kernels/reference.py",
          "return torch.logsumexp(joint, dim=1)", "return joint.exp().sum(1).log()",
          ("test_log_densities.py", "test_scales and dtype1")),
    Fault("reference: scatter about the old mean", "kernels/reference.py",
          "about_mean = centred - shift", "about_mean = centred", SCIKIT),
    Fault("reference: E[x^2] - mean^2", "kernels/reference.py",
          "(members - means[g, k]).T @ (members - means[g, k])",
          "members.T @ members - len(members) * torch.outer(means[g, k], means[g, k])", MOMENTS),
    # The CPU engine: against the reference.
    Fault("factor transposed", "kernels/cpu/tile.py", "W[i, j] = source[i, j]", "W[i, j] = source[j, i]", GAUSSIAN),
    Fault("log-determinant dropped", "kernels/cpu/mixture_log_density.py",
          "return log_det - 0.5", "return 0 * log_det - 0.5", GAUSSIAN),
    Fault("df + D and df swapped", "kernels/cpu/mixture_log_density.py",
          "torch.lgamma(half_df + 0.5 * D)", "torch.lgamma(half_df - 0.5 * D)", STUDENT_T),
    Fault("loop over features one short", "kernels/cpu/tile.py",
          "add_squares(W, i, i + ROWS, work, q, 0)", "add_squares(W, i, i + ROWS - 1, work, q, 0)", GAUSSIAN),
    Fault("mask of a tile's last points off by one", "kernels/cpu/tile.py",
          "min(start + j, stop - 1)", "min(start + j, stop - 2)", GAUSSIAN),
    Fault("last point of a panel not written", "kernels/cpu/mixture_log_density.py",
          "for j in range(min(n_lanes, stop - first)):", "for j in range(min(n_lanes, stop - first - 1)):",
          ("test_log_densities.py", "output_is_written and gaussian and dtype1")),
    Fault("EM: AIC that counts parameters once", "classfit/em.py",
          "+ 2 * _n_parameters(K, D)", "+ _n_parameters(K, D)", ("test_em.py", "scikit_learn or bic_chooses")),
    Fault("EM: scatter about the old mean", "kernels/cpu/em_statistics.py",
          "shift[j] = total[j] / count", "shift[j] = 0.0", EM),
    Fault("EM: square root of the responsibility forgotten", "kernels/cpu/em_statistics.py",
          "math.sqrt(responsibility[k, i])", "responsibility[k, i]", EM),
    Fault("EM: responsibilities not normalised", "kernels/cpu/em_statistics.py",
          "row[j] * total[j] if", "row[j] if", EM),
    Fault("scatter without its diagonal", "kernels/cpu/moments.py",
          "min(i + 1, column + width)", "min(i, column + width)", MOMENTS),
    Fault("precision factor: earlier rows forgotten", "kernels/cpu/moments.py",
          "W[i, j] = -inverse_pivot * product[i, j]", "W[i, j] = 0.0",
          ("test_precision_cholesky.py", "equal_the_reference and cpu and dtype1")),
    Fault("exponential: low part of ln 2 forgotten", "kernels/cpu/vector_math.py",
          "(x[j] - n * LN2_HIGH) - n * LN2_LOW", "x[j] - n * LN2_HIGH", ("test_vector_math.py", "exp")),
    # Gibbs sweeps: against enumeration and the reference.
    Fault("Gibbs: point not removed before it is drawn", "kernels/cpu/conditionals.py",
          "for first in range(b):", "for first in range(0):", PARTITIONS),
    Fault("Gibbs: a member's distance shrinks once, not twice", "kernels/cpu/rank_one.py",
          "q * ratio * ratio / left", "q * ratio / left", PARTITIONS),
    Fault("Gibbs: a slot is left without the point that was in it", "kernels/cpu/gibbs_sweep.py",
          "for i in range(len(block)):\n            set_slot(", "for i in range(0):\n            set_slot(",
          PARTITIONS),
    Fault("Gibbs: weight n_k + 1 of a component", "kernels/cpu/components.py",
          "math.log(c) if", "math.log(c + 1) if", PARTITIONS),
    Fault("Gibbs: new component without alpha", "kernels/cpu/gibbs_sweep.py",
          "log_alpha = math.log(alpha)", "log_alpha = 0.0", PARTITIONS),
    Fault("Gibbs: wrong kappa in the predictive", "kernels/cpu/components.py",
          "math.pi * (kappa + 1) / kappa", "math.pi * (kappa + 2) / kappa", PARTITIONS),
    Fault("Gibbs: alpha's shape drawn at the wrong odds", "kernels/reference.py",
          "probability = smaller / (smaller + n * rate)", "probability = smaller / (smaller + n)",
          ("test_gibbs.py", "draws_the_labels_of_the_reference and 1-1-False")),
    Fault("small components: a distance without the prior's strength", "kernels/cpu/small_components.py",
          "explained[0, j] - inverse_shrink", "explained[0, j] - 1", (SMALL, "distances_and_determinant")),
    Fault("small components: determinant of those that are joined again", "kernels/cpu/small_components.py",
          "change += append(k, members[j + 1]", "append(k, members[j + 1]", (SMALL, "a_point_that_leaves")),
    Fault("small components: only the first point of a block leaves", "kernels/cpu/small_components.py",
          "for point in block:", "for point in block[:1]:", (SMALL, "a_block_that_leaves")),
    Fault("small components: a slot that moved is not built again", "kernels/cpu/gibbs_sweep.py",
          "small.changed[first_empty:] = True", "small.changed[n_components:] = True",
          (SMALL, "other_slots")),
    Fault("small components: the mean of one that outgrows its form", "kernels/cpu/gibbs_sweep.py",
          "xbar[i] += x[members[j], i] / c", "xbar[i] += x[members[j], i] / (c + 1)", (SMALL, "outgrows_its")),
    Fault("small components: used where blocks are corrected", "kernels/cpu/gibbs_sweep.py",
          "not corrected and D >= FEWEST", "D >= FEWEST", (SMALL, "corrected_blocks")),
    Fault("small components: determinant of the other form", "kernels/cpu/gibbs_sweep.py",
          "small.changed[k] = True\n            if not rebuild_one", "if not rebuild_one", (SMALL, "changes_its_form")),
    Fault("small components: products however large", "kernels/cpu/small_components.py",
          "if not q[j] + 1 / kappa0 < LARGEST_PRODUCT:", "if False:", (SMALL, "too_large")),
    Fault("small components: log joint without the prior's determinant", "kernels/cpu/log_joint.py",
          "prior.log_det + log_det_of_members", "log_det_of_members", (SMALL, "log_joint")),
    Fault("rank one: a row of four without the ones before it", "kernels/cpu/rank_one.py",
          "total += v_1 * w", "total += v_0 * w", ("test_split_merge.py", "came_and_after")),
    # Split-merge moves, corrected blocks and annealing: against enumeration.
    Fault("split-merge: probability of the proposal dropped", "kernels/cpu/split_merge.py",
          "- log_proposal\n", "\n", SPLIT_MERGE),
    Fault("split-merge: a split next to impossible has probability exp(-700)", "kernels/cpu/split_merge.py",
          "else log_i - log_odds", "else -math.log1p(math.exp(min(log_odds, 700.0)))",
          ("test_split_merge.py", "next_to_impossible and factors")),
    Fault("split-merge: alpha forgotten", "kernels/cpu/parts.py", "math.log(alpha)\n", "0.0\n", SPLIT_MERGE),
    Fault("split-merge: no Gamma(n) of the whole", "kernels/cpu/parts.py",
          "- math.lgamma(n)\n", "- 0 * math.lgamma(n)\n", SPLIT_MERGE),
    Fault("split-merge: ratio of a merge not inverted", "kernels/cpu/split_merge.py",
          "log_odds if is_split else -log_odds", "log_odds if is_split else log_odds", SPLIT_MERGE),
    Fault("split-merge: a merge that no split undoes is allowed", "kernels/cpu/split_merge.py",
          "if not is_split and movable < components.size[a] - 1:", "if movable < 0:", PEELS),
    Fault("peels: probability of the proposal dropped", "kernels/cpu/peels.py",
          "prior, marginal) - log_proposal", "prior, marginal)", BY_PRODUCTS),
    Fault("peels: a split next to impossible has probability exp(-700)", "kernels/cpu/peels.py",
          "else log_i - log_odds", "else -math.log1p(math.exp(min(log_odds, 700.0)))",
          ("test_split_merge.py", "next_to_impossible and products")),
    Fault("peels: members of the component as points outside", "kernels/cpu/peels.py",
          "-1 if labels[points[r]] == b else 1", "1", BY_PRODUCTS),
    Fault("peels: products about the mean alone", "kernels/cpu/peels.py",
          "A_j[r, c] += inverse_kappa", "A_j[r, c] += 0", BY_PRODUCTS),
    Fault("peels: by the width of what all groups name", "kernels/cpu/split_merge.py",
          "named[p] += c >= 0", "named[p] += 1", ("test_split_merge.py", "how_many_candidates_others")),
    Fault("peels: products without digits", "kernels/cpu/split_merge.py",
          "if has_digits and fewest", "if fewest", ("test_split_merge.py", "prior_takes")),
    Fault("peels: a pivot's row not divided by it", "kernels/cpu/peels.py",
          "A[r, c] = pivot[c] * inverse", "A[r, c] = pivot[c]", BY_PRODUCTS),
    Fault("peels: a member weighed by the determinant with it", "kernels/cpu/peels.py",
          "n - 1, log_det - log_s", "n - 1, log_det", BY_PRODUCTS),
    Fault("peels: launched as the scan ends", "kernels/cpu/peels.py",
          "if r == 0 or launch[at[r]]:", "if r == 0:", BY_PRODUCTS),
    Fault("peels: a point that cannot be taken out weighs as one at the mean", "kernels/cpu/peels.py",
          "log_s = math.nan", "log_s = 0.0", ("test_split_merge.py", "cannot_be_taken_out")),
    Fault("converged: labels kept whenever rounds happen to end", "classfit/convergence.py",
          "for every in (KEEP_EVERY, CHECK_ROUNDS)", "for every in (CHECK_ROUNDS, CHECK_ROUNDS)",
          ("test_convergence.py", "any_number_of_rounds")),
    Fault("converged: looks whenever rounds happen to end", "classfit/convergence.py",
          "for every in (KEEP_EVERY, CHECK_ROUNDS)", "for every in (KEEP_EVERY, KEEP_EVERY)",
          ("test_convergence.py", "any_number_of_rounds")),
    Fault("blocks: two new components in one slot", "kernels/cpu/conditionals.py",
          " or drawn[i] == -1 - k", "", ("test_gibbs.py", "labels_of_the_reference and 2-4-False")),
    Fault("blocks: corrected by other points than share a component", "kernels/cpu/block_correction.py",
          "copy(scratch.block_y[i], points[at])", "copy(scratch.block_y[at], points[at])", BLOCKS),
    Fault("blocks: correction left out", "kernels/cpu/gibbs_sweep.py",
          "if not accept[start] < math.exp(min(0.0, after - before)):", "if False:", BLOCKS),
    Fault("blocks: correction upside down", "kernels/cpu/gibbs_sweep.py",
          "math.exp(min(0.0, after - before))", "math.exp(min(0.0, before - after))", BLOCKS),
    Fault("annealing: weight of the sweep's end, not its start", "classfit/annealing.py",
          "_log_likelihood(state, x, group_offsets, prior)\n"
          "        state = sweeps(state, x, group_offsets, prior, rngs, beta)",
          "_log_likelihood(state := sweeps(state, x, group_offsets, prior, rngs, beta), x, group_offsets, prior)",
          ("test_annealing.py", "unbiased")),
    Fault("chains share their random numbers", "classfit/gibbs.py",
          "counter=[0, chain, purpose, index]", "counter=[0, 0, purpose, index]",
          ("test_convergence.py", "not_copies")),
    # The fitting core: against scipy, closed forms and itself.
    Fault("predictive: degrees of freedom nu_n + 1", "classfit/prior.py",
          "df = posterior.nu_n - D + 1", "df = posterior.nu_n + 1", ("test_dpgmm.py", "prior_and_posterior")),
    Fault("predictive without the prior's component", "classfit/predictive.py",
          "weights.append(float(np.mean(self.alpha[:, group] / (n + self.alpha[:, group]))))", "weights.append(0.0)",
          ("test_predictive.py", "mean_over_kept_sweeps")),
    Fault("leaving one out: the point still counted", "classfit/leave_one_out.py",
          "(size[labels] - 1).log() +", "size[labels].log() +", LEFT_OUT),
    Fault("leaving one out: the point still in its component", "classfit/leave_one_out.py",
          "torch.log1p(-r[labels] * q)", "torch.log1p(-q)", LEFT_OUT),
    Fault("leaving one out: mean of densities, not of their inverses", "classfit/leave_one_out.py",
          "log_weight = -torch.stack(draws)", "log_weight = torch.stack(draws)", LEFT_OUT),
    Fault("relative entropy: prior's component left out of log q", "classfit/predictive.py",
          "+ float(weight[part] @ from_q[part])", "+ float(weight[part & ~is_prior] @ from_q[part & ~is_prior])",
          RELATIVE_ENTROPY),
    Fault("relative entropy: scale for covariance", "classfit/predictive.py",
          "spread[:, None] * root.square()", "root.square()", RELATIVE_ENTROPY),
    Fault("relative entropy: error of one part forgotten", "classfit/predictive.py",
          "variance + (share * error) ** 2", "(share * error) ** 2 / 2", ("test_relative_entropy.py", "intervals")),
    Fault("converged: random numbers of peels shared with larger groups", "classfit/proposals.py",
          "rng.random((P, 2, width)), rng", "rng.random((P, 2, m))[..., :width], rng",
          ("test_convergence.py", "alike_alone and ten")),
    Fault("converged: peels learn from components that none can part", "classfit/proposals.py",
          "size <= MAX_PEEL + 1", "size <= n", ("test_proposals.py", "aim_is_learned")),
    Fault("converged: what peels learned is never used", "classfit/proposals.py",
          "rng.random((P, 1)) < LEARNED", "rng.random((P, 1)) > 1", ("test_proposals.py", "part_companions")),
    Fault("converged: a peel's other anchor seldom a companion", "classfit/proposals.py",
          "near = rng.random(P) < NEAR", "near = rng.random(P) > 1", ("test_proposals.py", "part_companions")),
    Fault("converged: peels learn once alone while chains settle", "classfit/convergence.py",
          "after - before)\n        learn()\n", "after - before)\n    learn()\n",
          ("test_convergence.py", "while_chains_settle")),
    Fault("converged: labellings from the burn-in as well", "classfit/convergence.py",
          "np.linspace(last / 2, last - 1,", "np.linspace(0, last - 1,", ("test_convergence.py", "second_half")),
    Fault("converged: verdict on all rounds", "classfit/convergence.py",
          "trace[t // 2 : t, :, g].T", "trace[:t, :, g].T", ("test_convergence.py", "second_half")),
    Fault("converged: the density of a chain from consecutive labellings", "classfit/convergence.py",
          "slice(c, None, N_CHAINS)", "slice(c * N_KEPT, (c + 1) * N_KEPT)", ("test_convergence.py", "chain_alone")),
    Fault("sampling: forgotten square root", "classfit/predictive.py",
          "np.sqrt(float(df[m]) / rng", "(float(df[m]) / rng", ("test_posterior_samples.py", "few_points")),
    Fault("sampling: factor transposed", "classfit/predictive.py",
          "(precision_chol[m], z, upper=False)", "(precision_chol[m].T, z, upper=True)",
          ("test_predictive.py", "samples_in_several")),
    Fault("KL divergence the wrong way round", "classfit/predictive.py",
          "value[g, h], error[g, h] =", "value[h, g], error[h, g] =", ("test_predictive.py", "kl_divergence")),
    Fault("log joint: Gamma(n_k + 1) for Gamma(n_k)", "kernels/cpu/log_joint.py",
          "math.lgamma(size) + marginal", "math.lgamma(size + 1) + marginal", ("test_log_joint.py", "the_engine")),
    Fault("log joint: alpha forgotten", "kernels/cpu/log_joint.py",
          "math.log(alpha[t]) + math.lgamma(size)", "math.lgamma(size)", ("test_log_joint.py", "the_engine")),
    Fault("chain: corrected blocks are not corrected", "classfit/gibbs.py",
          "correction=correction,", "correction=None,",
          ("test_dpgmm.py", "corrected_blocks_are")),
    Fault("prior: scale forgotten", "classfit/prior.py", "S0_scale * variance", "variance",
          ("test_dpgmm.py", "prior_can_be")),
    Fault("unseeded randomness", "classfit/gibbs.py",
          "Philox(key=[seed, stream]", "Philox(key=np.random.SeedSequence().generate_state(2)",
          ("test_dpgmm.py", "seeds_matter")),
    Fault("EM: new mean without the old one", "classfit/em_steps.py",
          "mixtures.means.to(dtype) + statistics.sums", "statistics.sums",
          ("test_em_steps.py", "steps_equal_scikit_learn")),
    # The paper's figures: against their own inputs.
    Fault("figures: B.6 has all dimensions everywhere", "paper_repro/memorized_densities.py",
          '["values"][:, :D]', '["values"]', ("test_robustness_steps.py", "numbers_fit_together")),
    Fault("figures: B.7 has memorization in another order than densities", "paper_repro/figure_arguments.py",
          '["value"][by_class]', '["value"]', ("test_robustness_steps.py", "of_the_same_points")),
    Fault("figures: lines between chains in the order of the classes", "paper_repro/figures/class_density.py",
          '["mean_by_chain"][s][:, order]', '["mean_by_chain"][s]', ("test_paper_repro_figures.py", "thin_line")),
    Fault("figures: B.9 has scores in the order of the images", "paper_repro/figure_arguments.py",
          '["value"][np.argsort(train_labels(work), kind="stable")] if scored', '["value"] if scored',
          ("test_figure_arguments.py", "b9_has_points")),
    Fault("untrained: batch norm has seen no image", "paper_repro/untrained.py",
          ".split(BATCH)), network, device",
          ".split(BATCH)), build_network(work, work.settings, pretrained=False), device",
          ("test_untrained.py", "training_starts_from")),
    Fault("untrained: another network than the one that is trained", "paper_repro/untrained.py",
          "build_network(work, work.settings, pretrained=False)",
          "build_network(work, {**work.settings, 'seed': 1}, pretrained=False)",
          ("test_untrained.py", "training_starts_from")),
    Fault("gaussian points: of all classes together", "paper_repro/gaussian_points.py",
          "gaussian_points(x[labels == g].astype(np.float64), rng)",
          "gaussian_points(x.astype(float), rng)[labels == g]",
          ("test_gaussian_points.py", "every_class_has")),
    Fault("gaussian points: without their correlations", "paper_repro/gaussian_points.py",
          "* scale) @ directions.T", "* scale)", ("test_gaussian_points.py", "no_clusters")),
    Fault("figures: B.11 compares a Gaussian with itself", "paper_repro/figure_arguments.py",
          '"own_small": small("stage_")', '"own_small": small("layer")', ("test_gaussian_points.py", "either_fit")),
    Fault("across networks: as many in both do not count", "paper_repro/across_networks.py",
          "hypergeom.sf(both - 1, G, a, b)", "hypergeom.sf(both, G, a, b)",
          ("test_across_networks.py", "pairs_are_of_the_same")),
    Fault("figures: B.7 bins all points by density as fitted", "paper_repro/figures/figure_b7.py",
          '("left_out", left_out[stage])):', '("left_out", seen[stage])):', ("test_robustness_figures.py", "b7_bins")),
    Fault("figures: B.8 projects test images by singular vectors of their own", "paper_repro/computations.py",
          "layers, projections=projections)",
          "layers, n_components={layer: len(found.components) for layer, found in projections.items()})",
          ("test_figure_b8.py", "through_the_projection")),
    Fault("figures: B.4 takes points as fitted for left out", "paper_repro/controls.py",
          "model.leave_one_out().log_density", "density[fitted]", ("test_controls.py", "held_out_points")),
    Fault("networks of a bin see it", "paper_repro/robustness.py",
          "networks.fit(bins != b,", "networks.fit(bins >= 0,", ("test_steps_ask_for.py", "never_see_it")),
    Fault("votes that choose and votes that bound have the same noise", "paper_repro/robustness.py",
          'derived_seed(settings["seed"], kind, row)', 'derived_seed(settings["seed"], row)',
          ("test_steps_ask_for.py", "votes_are_of")),
    Fault("the control of certificates was trained on the certified points", "paper_repro/robustness.py",
          "    inside[rows] = False\n", "",
          ("test_steps_ask_for.py", "control_asks")),
    Fault("certificates choose by the votes that bound", "paper_repro/robustness.py",
          'certify(votes["selection"], votes["estimation"],', 'certify(votes["estimation"], votes["selection"],',
          ("test_steps_ask_for.py", "certificates_choose")),
    Fault("figures: A.11 fits the points that it classifies", "paper_repro/memorized_densities.py",
          "rest = np.setdiff1d(np.arange(len(labels)), np.concatenate(list(groups.values())))",
          "rest = np.arange(len(labels))", ("test_steps_ask_for.py", "held_out_of_figure_a11")),
    Fault("official does not reach the estimator", "paper_repro/computations.py",
          '"n_init_components", "official")', '"n_init_components")', ("test_steps_ask_for.py", "official")),
    Fault("all layers have one seed", "paper_repro/computations.py",
          '"posterior", *names)', '"posterior")', ("test_steps_ask_for.py", "every_layer")),
    Fault("the accuracy on test images is that on training images", "paper_repro/computations.py",
          '"test_accuracy": accuracy(network, data["test_images"], data["test_labels"],',
          '"test_accuracy": accuracy(network, data["train_images"], data["train_labels"],',
          ("test_networks_of_steps.py", "said_to_be")),
    Fault("claims: the error of a mean is the spread of its points", "paper_repro/claims.py",
          'stored["memorization_std"] / np.sqrt(n)', 'stored["memorization_std"]',
          ("test_paper_repro_claims.py", "errors_of_the_means")),
    Fault("claims: the size of a rank correlation beside draws with signs", "paper_repro/statistics.py",
          "np.abs(draws)) if size", "draws) if size", ("test_paper_repro_claims.py", "interval_of_a_rank_correlation")),
    Fault("intervals by resampling are of 90%", "paper_repro/statistics.py",
          "np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])", "np.quantile(draws, [1 - LEVEL, LEVEL])",
          ("test_paper_repro_claims.py", "bootstrap_intervals")),
    Fault("converged: a part of the chains with the points of another", "classfit/convergence.py",
          "slice(ends[a], ends[b])", "slice(ends[0], ends[b] - ends[a])", ("test_convergence.py", "handed_out")),
    Fault("threads: calls that run apart take all threads", "kernels/cpu/threads.py",
          "_reserved.set(1)", "_reserved.set(_reserved.get())", ("test_threads.py", "run_apart")),
    Fault("checkpoints as often however long one takes", "classfit/dpgmm.py",
          "max(1.0, (written - begun) / SECONDS_OF_A_CHECKPOINT)", "1.0", ("test_dpgmm.py", "twentieth")),
    Fault("a chain of other data goes on", "classfit/dpgmm.py",
          "    digest.update(x.numpy().tobytes())\n", "", ("test_dpgmm.py", "belongs_to_its_data")),
    # Triton's kernels, under the interpreter.
    Fault("claims: a transition where there are no two groups", "paper_repro/claims.py",
          "if not why and groups.excluded:", "if False:", ("test_paper_repro_claims.py", "there_is_no_transition")),
    Fault("claims: a transition at the edge of outliers", "paper_repro/claims.py",
          "(groups.without or groups.smaller < LEAST_IN_GROUP)", "False",
          ("test_paper_repro_claims.py", "far_from_all_others")),
    Fault("claims: C2 of a layer with groups", "paper_repro/claims.py",
          "range(min(2, len(stages) - 2))", "range(2)", ("test_paper_repro_claims.py", "not_called_early")),
    Fault("memorization: a point in every subset", "paper_repro/memorization.py",
          "n_in.min() > 0 and n_in.max() < n_trials", "n_in.min() > 0",
          ("test_memorization.py", "seed_whose_subsets")),
    Fault("plan: finished trials counted again", "paper_repro/memorization.py",
          "if not _file(folder, trial).exists()]", "if True]",
          ("test_robustness_steps.py", "takes_no_more_time")),
    Fault("a fit that is stopped: half of it stays", "classfit/_check.py",
          "        vars(estimator).clear()\n        vars(estimator).update(before)\n", "",
          ("test_classifier.py", "that_is_stopped")),
    Fault("draws: a Generator's state is not looked at", "classfit/_check.py",
          "seed = int(value.integers(2**63 - 1)) if", "seed = 0 if",
          ("test_arguments.py", "a_generator_is_gone_on_with")),
    Fault("threads: torch's number as it is within", "kernels/cpu/threads.py",
          "        if _inside == 0:\n", "        if True:\n", ("test_threads.py", "overlap")),
    Fault("claims: a p-value near the level after one batch", "paper_repro/statistics.py",
          "> 4 * np.sqrt(p * (1 - p) / n_drawn)", ">= 0",
          ("test_paper_repro_claims.py", "seed_does_not_decide")),
    Fault("scores of other images are taken", "paper_repro/given_scores.py",
          "if classes is not None and not np.array_equal(classes, labels):", "if False:",
          ("test_given_scores.py", "other_images")),
    Fault("published scores are put on other images", "paper_repro/given_scores.py",
          '"value": value[order]', '"value": value',
          ("test_given_scores.py", "order_of_the_archive")),
    Fault("a folder for training is a class", "paper_repro/datasets/images.py",
          "(bool(self.part(TEST)) or not loose)", "bool(self.part(TEST))",
          ("test_paper_repro_datasets.py", "parts_of_an_image_folder")),
    Fault("a damaged step is computed again, whatever it took", "paper_repro/steps.py",
          "if not why and state == State.DAMAGED:", "if False:", ("test_paper_repro_steps.py", "damaged_step_that")),
    Fault("progress of other versions is thrown away", "paper_repro/steps.py",
          'if "files" in record or before == now:', "if True:", ("test_paper_repro_steps.py", "of_other_versions")),
    Fault("of kept results, a run tests the claims of the figures it was asked for alone", "paper_repro/cli.py",
          "to_do(pipeline.figures.values(), kept=True)", "to_do(pipeline.figures.values())",
          ("test_paper_repro.py", "from_kept_results")),
    Fault("other networks count for what may be kept", "paper_repro/keep.py",
          'name.rpartition("/")[0] not in apart', 'name.split("/")[0] not in apart',
          ("test_keep.py", "other_networks")),
    Fault("an estimate takes what was compiled for work", "paper_repro/timing.py",
          "in (SHORT_SECONDS, WORTH_SAYING_SECONDS):", "in (WORTH_SAYING_SECONDS,):",
          ("test_paper_repro_plan.py", "what_is_short")),
    Fault("report: pictures share the names of their styles", "paper_repro/report.py",
          '|\\bclass="|', "|", ("test_paper_repro_figures.py", "inline_svg")),
    Fault("a step is computed from inputs that were not kept", "paper_repro/steps.py",
          "if partial := [", "if False and [", ("test_paper_repro_steps.py", "kept_in_part")),
    Fault("pictures: a line down runs along", "paper_repro/figures/style.py",
          'f"v{down}"', 'f"h{down}"', ("test_kept_results.py", "compact_pictures")),
    Fault("pictures: bars of one side", "paper_repro/figures/style.py",
          "np.stack([x, low, x, high], axis=1)", "np.stack([x, low, x, (low + high) / 2], axis=1)",
          ("test_paper_repro_figures.py", "panels_show")),
    Fault("pictures: lines forget the ends their group has", "paper_repro/figures/style.py",
          '">svg{"', '">*{"', ("test_kept_results.py", "compact_pictures")),
    Fault("a step that cannot be computed ends the run", "paper_repro/steps.py",
          "            except CannotError as error:\n                self",
          "            except KeyError as error:\n                self",
          ("test_paper_repro_steps.py", "keeps_nothing_else")),
    Fault("outliers are a group of classes", "paper_repro/statistics.py",
          " and min(n_high, len(values) - n_high) >= least_a_side(len(values))", "",
          ("test_paper_repro_claims.py", "tails_are_no_groups or groups_are_split")),
    Fault("an outlier makes two groups one", "paper_repro/claims.py",
          "if not others.excluded:", "if False:", ("test_paper_repro_claims.py", "far_from_two_groups")),
    Fault("an interval of the resamples that miss what is no number", "paper_repro/statistics.py",
          "if len(draws) == 0 or not np.isfinite(value):", "if len(draws) == 0:",
          ("test_paper_repro_claims.py", "no_number")),
    Fault("several intervals at once are as wide as one", "paper_repro/statistics.py",
          "(1 - LEVEL) / 2 / at_once", "(1 - LEVEL) / 2", ("test_paper_repro_claims.py", "several_at_once")),
    Fault("two classes have an interval", "paper_repro/statistics.py",
          "    if n < LEAST_IN_GROUP:", "    if n < 1:", ("test_paper_repro_claims.py", "two_classes or few_units")),
    Fault("estimators: too few names of groups at scoring", "classfit/groups.py",
          "if names.shape != (n,):", "if names.ndim != 1:", ("test_arguments.py", "one_name_a_row")),
    Fault("estimators: names that numpy makes one are one group", "classfit/groups.py",
          "if name != kept and name == name:", "if False:", ("test_arguments.py", "numpy_would_make_one")),
    Fault("a posterior numbers components as if labels had no gaps", "classfit/predictive.py",
          "occupied.sum(1) <= highest", "occupied.sum(1) < 0", ("test_arguments.py", "does_not_fit_together")),
    Fault("progress goes with the record of its start", "paper_repro/steps.py",
          "if state == State.UNFINISHED and not record and _progress(self.folder(step)):", "if False:",
          ("test_paper_repro_steps.py", "nobody_knows")),
    Fault("what a link leads to is another step's folder", "paper_repro/steps.py",
          "if path.is_symlink():", "if False:", ("test_paper_repro_steps.py", "link_leads_to")),
    Fault("kept runs of other seeds are left out", "paper_repro/keep.py",
          "int(digits) if digits.isdecimal() else 0", "0", ("test_across_networks.py", "another_seed")),
    Fault("held-out points seen by their fold", "classfit/protocols.py", ".fit(X[~out], groups=names[~out])",
          ".fit(X, groups=names)", ("test_protocols.py", "held_out_of_the_fit")),
    Fault("the step heldout stores densities of points seen", "paper_repro/computations.py",
          '"log_density": found.log_density, "in_sample"',
          '"log_density": found.diagnostics["in_sample"], "in_sample"',
          ("test_heldout_step.py", "densities_are_of_the_folds")),
    Fault("Triton: runs merged as if their means were equal", "kernels/triton/em_statistics.py",
          "scatter += n * (apart_row[:, None] * apart_col[None, :])",
          "scatter += 0 * n * (apart_row[:, None] * apart_col[None, :])",
          ("test_triton_densities.py", "statistics_equal_the_reference and dtype1")),
    Fault("Triton: log-likelihood without the constants of its densities", "kernels/triton/em_statistics.py",
          "tl.sum(total, axis=0) + constant)", "tl.sum(total, axis=0))",
          ("test_triton_densities.py", "statistics_of_ragged_groups")),
    Fault("Triton: the first tile of a group counted to the group before", "kernels/triton/mixture_log_density.py",
          "(first_tile <= tile)", "((first_tile < tile) | (o_g == 0))",
          ("test_triton_densities.py", "statistics_of_ragged_groups")),
    Fault("Triton: factors packed with what lies above the diagonal", "kernels/triton/components.py",
          "(row < D) & (col <= row)", "(row < D) & (col < D)",
          ("test_triton_densities.py", "layout_does_not_matter")),
    Fault("Triton: a split-merge candidate weighed with itself", "kernels/triton/split_merge.py",
          "left = tl.where(is_member, 1 - ratio * q, 1.0)", "left = tl.where(is_member, 1.0, 1.0)",
          ("test_triton_split_merge.py", "split_and_unite")),
    Fault("Triton: a component's record kept when its points change", "kernels/triton/split_merge.py",
          "if a < HELD:", "if a < 0:", ("test_triton_split_merge.py", "more_components")),
    Fault("Triton: merges that no split would undo", "kernels/triton/split_merge.py",
          "if others == 0:", "if others >= 0:", ("test_triton_split_merge.py", "moves_equal_the_reference")),
    Fault("Triton: gaps between components closed in the first group alone", "kernels/triton/split_merge.py",
          "before[entry] - before[first][group]", "before[entry]", ("test_triton_split_merge.py", "split_and_unite")),
    Fault("Triton: points not in the units of the prior", "kernels/triton/records.py",
          "z[part] = shifted[part] @ inverse[g].mT", "z[part] = shifted[part]",
          ("test_triton_split_merge.py", "nearly_dependent")),
    Fault("Triton: log joint of a large alpha by log Gamma", "kernels/triton/log_joint.py",
          "STIRLING = 1e5", "STIRLING = 1e300", ("test_triton_split_merge.py", "large_alpha")),
    Fault("log joint of a large alpha by log Gamma", "kernels/cpu/log_joint.py",
          "STIRLING = 1e5", "STIRLING = 1e300", ("test_log_joint.py", "large_alpha")),
    Fault("Triton: log joint without the points' degrees of freedom", "kernels/triton/log_joint.py",
          "(nu0 + n) * log_det_of", "nu0 * log_det_of", ("test_triton_split_merge.py", "log_joint")),
    Fault("Triton: the power of the likelihood left out for the prior", "kernels/triton/gibbs_sweep.py",
          "power * log_predictive(tl.load(constants_ptr + 1)", "1.0 * log_predictive(tl.load(constants_ptr + 1)",
          ("test_triton_gibbs.py", "power_of_the_likelihood")),
    Fault("annealing: alpha fixed in the weights", "classfit/annealing.py",
          "log_partition(state.labels, group_offsets) - ", "0 * ", ("test_annealing.py", "weights_are_unbiased")),
    Fault("annealing: heated by the temperature that is left", "classfit/annealing.py",
          "state = sweeps(state, x, group_offsets, prior, rngs, beta)\n        log_weight += (beta",
          "state = sweeps(state, x, group_offsets, prior, rngs, before)\n        log_weight += (beta",
          ("test_annealing.py", "weights_are_unbiased")),
    Fault("prior: on the default device of torch", "classfit/prior.py",
          "kappa0, dtype=torch.float64, device=CPU)", "kappa0, dtype=torch.float64)",
          ("test_devices.py", "default_device_of_torch")),
    Fault("gibbs: temperatures on the default device of torch", "kernels/cpu/gibbs_sweep.py",
          "x.new_ones(T, G, dtype=torch.float64)", "torch.ones(T, G, dtype=torch.float64)",
          ("test_gibbs.py", "default_device")),
    Fault("triton: a distance that is no number passes", "kernels/triton/records.py",
          "if not (distance <= FARTHEST).all():", "if (distance > FARTHEST).any():",
          ("test_triton_split_merge.py", "distance_that_is_no_number")),
    Fault("evidence: few components whatever their size", "classfit/states.py",
          "_is_many(labels, problem) == many", "_is_many(labels, problem) >= 0",
          ("test_states.py", "best_of_those")),
    Fault("evidence: many components are those of annealing alone", "classfit/states.py",
          "chosen = _is_many(annealed, problem) | ~_is_many(kept, problem)",
          "chosen = _is_many(annealed, problem) | _is_many(kept, problem)",
          ("test_states.py", "annealing_leads_to_few")),
    Fault("evidence: bounds that overlap decide", "classfit/states.py",
          "self.many_lower > self.few_upper", "self.many_lower > self.few_lower", ("test_states.py", "do_not_overlap")),
    Fault("figure B.10: what is open is decided by a few nats", "paper_repro/figures/figure_b10.py",
          "(apart > 0) & (apart < NEAR_NATS)", "(apart < NEAR_NATS)", ("test_states.py", "decided_by_a_few_nats")),
    Fault("evidence: a step that was stopped begins anew", "paper_repro/state_evidence.py",
          "lambda part: checkpoint_of(work.folder, part).exists()", "lambda part: False",
          ("test_states.py", "step_that_was_stopped")),
    Fault("analyze: images that have changed are those of before", "paper_repro/analyze.py",
          '"images": images}\n        self.dataset', '"images": ""}\n        self.dataset',
          ("test_paper_repro_analyze.py", "images_that_have_changed")),
    Fault("analyze: other code with the same weights is the same network", "paper_repro/analyze.py",
          "PROBE_TOLERANCE * np.linalg.norm", "2 * np.linalg.norm", ("test_paper_repro_analyze.py", "other_code")),
    Fault("converged: slower annealing never taken", "classfit/convergence.py",
          "if value > bound[c, :, g].max()", "if t < SLOWER and value > bound[c, :, g].max()",
          ("test_convergence.py", "goes_on_from_the_best_bound")),
    # On a device that is pretended.
    Fault("devices: the prior of a chain left on the processor", "classfit/dpgmm.py",
          "x.to(device), moved(prior, device)", "x.to(device), prior", ("test_devices.py", "a_fit_and_all")),
    Fault("devices: densities of a fit evaluated on the processor", "classfit/dpgmm.py",
          ").to(self.device)\n", ")\n", ("test_devices.py", "a_fit_and_all")),
    Fault("devices: a chain of another device goes on", "classfit/dpgmm.py",
          '{"device": devices.name(device)}', "{}", ("test_devices.py", "only_where_it_began")),
    # The check for regressions, in two made trees.
    Fault("bench-check: BASE timed against itself", "benchmarks/check.py",
          "trees=(current, base)", "trees=(base, base)", ("test_benchmarks.py", "trees_are_timed")),
    Fault("bench-check: ratio the wrong way round", "benchmarks/check.py",
          "trees=(current, base)", "trees=(base, current)", ("test_benchmarks.py", "trees_are_timed")),
]  # fmt: skip


class Outcome(NamedTuple):
    words: str
    good: bool
    seconds: float


def environment(copy: Path, cache: Path) -> dict[str, str]:
    # numba finds compiled code by the file of the function called, whatever became of the functions that it calls: a
    # fault in compiled code needs a cache of its own. Bytecode is told by a time stamp of whole seconds: none is kept.
    return os.environ | {"PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}


def run_tests(copy: Path, selections: list[tuple[str, str]], cache: Path) -> subprocess.CompletedProcess:
    """pytest on the copy, which alone is imported."""
    files = sorted({f"tests/{file}" for file, _ in selections})
    expression = " or ".join(f"({select})" for _, select in selections)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files, "-k", expression],
        cwd=copy,
        env=environment(copy, cache),
        capture_output=True,
        text=True,
        check=False,
    )


def plant(fault: Fault, copy: Path, cache: Path) -> Outcome:
    path = copy / fault.file
    text = path.read_text()
    if text.count(fault.old) != 1:
        return Outcome(f"does not apply: its text is there {text.count(fault.old)} times", False, 0.0)
    began = time.monotonic()
    path.write_text(text.replace(fault.old, fault.new))
    try:
        if fault.file.startswith("kernels/cpu/"):
            cache = Path(tempfile.mkdtemp(dir=cache.parent))
        result = run_tests(copy, [fault.tests], cache)
    finally:
        path.write_text(text)
    seconds = time.monotonic() - began
    failed = [line.removeprefix("FAILED tests/") for line in result.stdout.splitlines() if line.startswith("FAILED")]
    if result.returncode == 1 and failed:
        return Outcome(f"caught by {failed[0].split(' - ')[0]}", True, seconds)
    if result.returncode == 0:
        return Outcome("SURVIVED: the tests pass", False, seconds)
    return Outcome(f"the tests did not run (pytest returned {result.returncode})", False, seconds)


def main(words: list[str]) -> int:
    faults = [fault for fault in FAULTS if all(word.lower() in fault.name.lower() for word in words)]
    console = Console()
    if not faults:
        console.print(
            f"no fault has {' and '.join(words)} in its name; there are:", *(f.name for f in FAULTS), sep="\n"
        )
        return 1
    with tempfile.TemporaryDirectory(prefix="planted-faults-") as folder:
        copy, cache = Path(folder, "copy"), Path(folder, "cache")
        copy.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
            else:
                shutil.copy(source, copy / name)
        code = "import classfit, kernels, paper_repro; print(classfit.__file__, kernels.__file__, paper_repro.__file__)"
        where = subprocess.run(
            [sys.executable, "-c", code],
            cwd=copy, env=environment(copy, cache), capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        if not all(Path(file).resolve().is_relative_to(copy.resolve()) for file in where):
            console.print(f"the copy is not what would be tested, but {' and '.join(where)}")
            return 1
        console.print(f"the tests that should notice {len(faults)} faults, without any ...")
        clean = run_tests(copy, sorted({fault.tests for fault in faults}), cache)
        if clean.returncode != 0:
            console.print(
                escape(clean.stdout), escape(clean.stderr), "[bold red]the tests fail without a fault", sep="\n"
            )
            return 1
        outcomes = [plant(fault, copy, cache) for fault in track(faults, "planting", console=console)]
    table = Table("fault", "in", "outcome", "seconds")
    for fault, outcome in zip(faults, outcomes, strict=True):
        style = "green" if outcome.good else "bold red"
        table.add_row(escape(fault.name), fault.file, f"[{style}]{escape(outcome.words)}", f"{outcome.seconds:.0f}")
    console.print(table)
    caught = sum(outcome.good for outcome in outcomes)
    console.print(f"{caught} of {len(faults)} faults caught")
    return 0 if caught == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
