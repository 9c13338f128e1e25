"""All steps from images to figures, for one profile, protocol and seed.

    dataset -> network -> representations -> posterior of each stage -> relative entropies -> table of classes, figures
                                             posterior of stages 3, 4 -> densities of points left out -> figure B.5
                                             the same, test images -> their densities -> figure B.8
    dataset -> pixels, untrained network -> posteriors -> figure B.9
               representations -> points of one Gaussian a class -> posteriors -> figure B.11
    figures -> scorecard

Steps whose results depend on the protocol lie in a folder of its name. A posterior under `heldout` is that of
`converged`, which is among its inputs, and has densities of its own; what follows from the posterior alone is a step of
`converged`.
"""

import shlex
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from paper_repro import computations as compute
from paper_repro.claims import CLAIMS, scorecard
from paper_repro.controls import control_steps
from paper_repro.figures import FIGURES
from paper_repro.gaussian_points import figure_b11, gaussian_steps
from paper_repro.given_scores import GivenScores
from paper_repro.profiles import CONVERGED, OtherNetwork, Profile, Protocol
from paper_repro.published_figures import PUBLISHED_FIGURES, published_figure, scores_of
from paper_repro.published_figures import absent as without_published
from paper_repro.robustness_pipeline import OF_CONVERGED, ROBUSTNESS_FIGURES, robustness_figure, robustness_steps
from paper_repro.state_evidence import evidence_steps, figure_b10
from paper_repro.steps import Step, Workspace
from paper_repro.untrained import figure_b9, untrained_steps

__all__ = ["ANY_PROTOCOL", "DEFAULTS", "STAGES", "Pipeline", "protocol_folder", "run_folder"]

STAGES = (1, 2, 3, 4)
DEFAULTS = {"--profile": "digits", "--protocol": "paper", "--seed": "0", "--runs-dir": "runs"}
"""Of the commands that read or make results."""
TRACE_POINTS = 60
"""Sweeps that the table of classes draws of a trace."""
DENSITY_FIGURES = (
    "figure_1",
    "figure_2",
    "figure_a5",
    "figure_a6",
    "figure_a7",
    "figure_b1",
    "figure_b3",
    "figure_b5",
    "figure_b8",
)
"""Those that need nothing but the network: minutes, where all figures may take days."""
ANY_PROTOCOL = ("figure_a5", "figure_a6", "figure_b2")
"""Those that are the same under every protocol."""
WHOLE_FIT = (
    "The chains are those of the fit to all points of a class; how many of the fits that leave points out converged is "
    "in the table of classes."
)
"""What figure B.3 says under the protocol heldout."""
ALL_POINTS = (
    "These densities are of the fit to all points of a class, not of those to four fifths of it that other figures "
    "show."
)
"""What figures B.5, B.7 and B.8 say under that protocol."""
OF_OTHERS = {"figure_a8": "convnet", "figure_a9": "vit", "figure_a10": "mixer"}
"""Figures of a network beside the residual one."""


def run_folder(name: str, seed: int) -> str:
    """Of the results of a profile or model: every seed has its own, so that no run replaces what another one made."""
    return f"{name}-seed{seed}" if seed else name


def protocol_folder(protocol: Protocol, official: bool) -> str:
    """Of what depends on the protocol."""
    return f"{protocol.name}-official" if official else protocol.name


class Other(NamedTuple):
    """The steps of such a network."""

    title: str
    network: Step
    representations: Step
    posteriors: dict[str, Step]
    """By the name of the layer, in order."""


class Pipeline:
    """The steps, by what they make."""

    def __init__(
        self,
        profile: Profile,
        protocol: Protocol,
        *,
        seed: int = 0,
        official: bool = False,
        data: Path | None = None,
        scores: GivenScores | None = None,
    ) -> None:
        self.profile, self.protocol, self.seed, self.official = profile, protocol, seed, official
        self.scores = scores
        self.folder = protocol_folder(protocol, official)
        self.dataset = Step(
            "dataset",
            # Where the data lie is no setting: the hash of what was read is, by way of the step's files.
            {"name": profile.dataset, **profile.dataset_options} | ({"seed": seed} if profile.splits else {}),
            partial(compute.dataset, source=data),
        )
        self.network = Step(
            "network",
            {
                "architecture": profile.architecture,
                "width": profile.width,
                "stem": profile.stem,
                "epochs": profile.epochs,
                "batch_size": profile.batch_size,
                "peak_learning_rate": profile.peak_learning_rate,
                "weight_decay": profile.weight_decay,
                "crop_padding": profile.crop_padding,
                "flip": profile.flip,
                "bfloat16": profile.bfloat16,
                "seed": seed,
            },
            compute.network,
            (self.dataset,),
            compute.estimate_network,
        )
        self.representations = Step(
            "representations",
            {"dimensions": {f"layer{k}": d for k, d in zip(STAGES, profile.dimensions, strict=True)}},
            compute.representations,
            (self.dataset, self.network),
            compute.estimate_representations,
        )
        self.posteriors = {stage: self._posterior(stage) for stage in STAGES}
        others = {"convnet": profile.convnet, "vit": profile.vit, "mixer": profile.mixer}
        self.others = {name: self._other(name, network) for name, network in others.items() if network}
        self.entropies = {stage: self._entropy(stage) for stage in STAGES if protocol.density != "em"}
        self.left_out = self._left_out(STAGES[-2:])
        self.test_densities = self._test_densities()
        self.classes = self._classes()
        self.controls = control_steps(self)
        self.robustness = robustness_steps(self) if profile.robustness else {}
        self.untrained = untrained_steps(self)
        self.gaussian = gaussian_steps(self)
        self.evidence = evidence_steps(self)
        needed: tuple[tuple[Any, Iterable[str]], ...] = (
            (self.controls, ("figure_b4", "figure_b6")),
            (self.robustness, ROBUSTNESS_FIGURES),
            (self.untrained, ("figure_b9",)),
            (self.evidence, ("figure_b10",)),
            (self.gaussian, ("figure_b11",)),
            (self.entropies, ("figure_2", "figure_4", "figure_a11", "figure_b3")),  # none by EM
            (self.left_out, ("figure_b5", "figure_b7", "figure_b8")),
        )
        absent = {name for name, network in OF_OTHERS.items() if network not in self.others} | without_published(self)
        absent |= {name for there, figures in needed if not there for name in figures}
        self.figures = {name: self._figure(name) for name in FIGURES if name not in absent}
        self.scorecard = self.scorecard_of(self.figures)

    @property
    def subtitle(self) -> str:
        """The line under every figure's title."""
        official = " as coded (--official)" if self.official else ""
        return f"{self.profile.title} · protocol {self.protocol.name}{official} · seed {self.seed}"

    @property
    def protocol_of_whole(self) -> Protocol:
        """Whose fits to all points of a class are this one's."""
        return CONVERGED if self.protocol.density == "heldout" else self.protocol

    @property
    def folder_of_whole(self) -> str:
        """Of what follows from such fits."""
        return protocol_folder(self.protocol_of_whole, self.official)

    @property
    def networks(self) -> list[Step]:
        """The trained ones whose classes are fitted, the residual one first."""
        return [self.network, *(other.network for other in self.others.values())]

    @property
    def of_all_points(self) -> str:
        """What a caption says of points as fitted, where other figures show held-out ones."""
        return ALL_POINTS if self.protocol.density == "heldout" else ""

    @property
    def n_discard(self) -> int | None:
        """Sweeps that a single chain discards; None: the protocol has several, or none."""
        return self.protocol.n_discard if self.protocol.density == "chain" else None

    def under(self, protocol: Protocol, *, official: bool = False) -> "Pipeline":
        """The same under another protocol."""
        return Pipeline(self.profile, protocol, seed=self.seed, official=official, scores=self.scores)

    def command(self, verb: str, runs_dir: Path, figures: Iterable[str] = ()) -> str:
        """What to type for these results: the figures, and the options that are not the defaults."""
        names = (self.profile.name, self.protocol.name, str(self.seed), str(runs_dir))
        options = [
            word
            for (option, default), value in zip(DEFAULTS.items(), names, strict=True)
            if value != default
            for word in (option, value)
        ]
        return shlex.join(["paper-repro", verb, *figures, *options, *(["--official"] if self.official else [])])

    @property
    def steps(self) -> list[Step]:
        """All of them, each after its inputs."""
        found: dict[str, Step] = {}

        def add(step: Step) -> None:
            for step_in in step.inputs:
                add(step_in)
            found.setdefault(step.name, step)

        shared = [self.dataset, self.network, self.representations]
        densities = [*self.posteriors.values(), *self.entropies.values(), self.classes, *self.left_out.values()]
        others = [
            step
            for other in self.others.values()
            for step in (other.network, other.representations, *other.posteriors.values())
        ]
        kinds = (self.controls, self.robustness, self.untrained, self.evidence, self.gaussian)
        made = [step for steps in kinds for step in steps.values()]
        for step in (*shared, *densities, *others, *made, *self.figures.values(), self.scorecard):
            add(step)
        return list(found.values())

    def sampler(self, protocol: Protocol | None = None) -> dict[str, Any]:
        """The protocol's part of the settings of a posterior; of this one's, for None."""
        protocol = protocol or self.protocol
        return {
            "n_sweeps": protocol.n_sweeps,
            "n_discard": protocol.n_discard,
            "thin": protocol.thin,
            "block_size": protocol.block_size,
            "n_init_components": protocol.n_init_components,
            "official": self.official,
            "seed": self.seed,
        } | ({} if protocol.density == "chain" else {"density": protocol.density})

    def scorecard_of(self, figures: Iterable[str]) -> Step:
        """The claims that these of the figures allow."""
        tested = {name for test in CLAIMS.values() for name in (*test.figures, *test.also)} & set(figures)
        settings: dict[str, Any] = {"claims": list(CLAIMS)}
        if self.protocol.density == "heldout":
            settings["of_converged"] = list(OF_CONVERGED)
        return Step(
            f"{self.folder}/scorecard",
            settings,
            scorecard,
            tuple(step for name, step in self.figures.items() if name in tested),
        )

    def scorecard_there(self, workspace: Workspace) -> Step:
        """Of the figures that have been computed: where that is only some, of the claims that they allow."""
        found = [name for name, step in self.figures.items() if workspace.provenance(step) is not None]
        card = self.scorecard_of(found)
        return card if card.inputs else self.scorecard

    def _posterior(self, stage: int) -> Step:
        return self.fit(f"posterior_stage_{stage}", {"stage": stage}, self.representations)

    def fit(self, name: str, of: dict[str, Any], representations: Step) -> Step:
        """Posterior and densities of all classes at one stage or layer."""

        def step(protocol: Protocol, *more: Step) -> Step:
            return Step(
                f"{protocol_folder(protocol, self.official)}/{name}",
                of | self.sampler(protocol),
                compute.posterior,
                (self.dataset, representations, *more),
                compute.estimate_posterior,
            )

        whole = [step(CONVERGED)] if self.protocol.density == "heldout" else []
        return step(self.protocol, *whole)

    @property
    def leaves_out(self) -> bool:
        """Whether its densities are of whole fits, out of which points can be left."""
        return self.protocol.density in ("chain", "converged") and not self.official

    def fits_beside(self, of: str, representations: Step) -> dict[str, Step]:
        """Of each layer of representations that no trained network has: a posterior, and densities of points left out.

        Args:
            of: what they are of; also their folder.
            representations: the step, whose settings have the dimensions of each layer.
        """
        steps = {}
        for layer in representations.settings["dimensions"]:
            posterior = self.fit(f"{of}/posterior_{layer}", {"network": of, "layer": layer}, representations)
            steps[f"posterior_{layer}"] = posterior
            steps[f"leave_one_out_{layer}"] = Step(
                f"{self.folder}/{of}/leave_one_out_{layer}",
                {"layer": layer},
                compute.leave_one_out,
                (posterior,),
                compute.estimate_leave_one_out,
            )
        return steps

    def _whole(self, stage: int) -> Step:
        """The fit to all points of each class."""
        step = self.posteriors[stage]
        return step.inputs[-1] if self.protocol.density == "heldout" else step

    def _entropy(self, stage: int) -> Step:
        settings = {"stage": stage, "n_draws": self.protocol.entropy_draws, "log_q": "exact", "seed": self.seed}
        name = f"{self.folder_of_whole}/relative_entropy_stage_{stage}"
        return Step(name, settings, compute.relative_entropy, (self._whole(stage),), compute.estimate_relative_entropy)

    def _left_out(self, stages: Iterable[int]) -> dict[int, Step]:
        """Densities of points left out; none where they are no mean over a posterior of labels: by EM, as published."""
        if self.protocol.density == "em" or self.official:
            return {}
        return {
            stage: Step(
                f"{self.folder_of_whole}/leave_one_out_stage_{stage}",
                {"stage": stage},
                compute.leave_one_out,
                (self._whole(stage),),
                compute.estimate_leave_one_out,
            )
            for stage in stages
        }

    def _test_densities(self) -> Step:
        """Of test images, under the fits whose points are left out."""
        representations = Step(
            "test_representations",
            {"layers": [f"layer{stage}" for stage in self.left_out]},
            compute.test_representations,
            (self.dataset, self.network, self.representations),
            compute.estimate_test_representations,
        )
        return Step(
            f"{self.folder_of_whole}/test_densities",
            {"stages": list(self.left_out)},
            compute.test_densities,
            (representations, *(self._whole(stage) for stage in self.left_out)),
            compute.estimate_test_densities,
        )

    def _classes(self) -> Step:
        inputs = (self.dataset, *self.posteriors.values(), *self.entropies.values())
        # Those of `heldout` are of other fits than its densities: the report of `converged` shows them.
        trace_points = 0 if self.protocol.density == "heldout" else TRACE_POINTS
        settings = {"stages": list(self.posteriors), "trace_points": trace_points, "n_discard": self.n_discard}
        return Step(f"{self.folder}/classes", settings, compute.classes, inputs)

    def _other(self, name: str, other: OtherNetwork) -> Other:
        network = Step(
            f"{name}/network",
            {**other.settings, "seed": self.seed},
            compute.network,
            (self.dataset,),
            compute.estimate_network,
        )
        representations = Step(
            f"{name}/representations",
            {"dimensions": dict(other.dimensions)},
            compute.representations,
            (self.dataset, network),
            compute.estimate_representations,
        )
        posteriors = {
            layer: self.fit(f"{name}/posterior_{layer}", {"network": name, "layer": layer}, representations)
            for layer in other.dimensions
        }
        return Other(other.title, network, representations, posteriors)

    def _figure(self, name: str) -> Step:
        settings = {"figure": name, "subtitle": self.subtitle, "note": self.profile.note}
        more, inputs = self._settings_and_inputs(name)
        return Step(f"{self.folder}/{name}", settings | more, compute.figure, inputs)

    def _settings_and_inputs(self, name: str) -> tuple[dict[str, Any], tuple[Step, ...]]:
        """Of a figure; settings beside those of all."""
        if name in ROBUSTNESS_FIGURES:
            return robustness_figure(self, name)
        if name in PUBLISHED_FIGURES:
            return published_figure(self, name)
        if name == "figure_b9":
            return figure_b9(self)
        if name == "figure_b10":
            return figure_b10(self)
        if name == "figure_b11":
            return figure_b11(self)
        if name in OF_OTHERS:
            other = self.others[OF_OTHERS[name]]
            more = {"network": other.title, "layers": list(other.posteriors)}
            needed = (self.dataset, other.network, other.representations, *other.posteriors.values())
            return {"subtitle": f"{self.subtitle} · {other.title}", **more}, needed
        read, every = (self.dataset, self.representations), {"stages": list(STAGES)}
        final = [step for stage, step in self.entropies.items() if stage == STAGES[-1]]
        left_out = {"stages": list(self.left_out), "remark": self.of_all_points}
        of_chains = {
            "dimensions": list(self.profile.dimensions),
            "n_discard": self.n_discard,
            "remark": WHOLE_FIT if self.protocol.density == "heldout" else "",
        }
        known: dict[str, tuple[dict[str, Any], tuple[Step, ...]]] = {
            "figure_1": ({"stages": [3, 4]}, (*read, self.posteriors[3], self.posteriors[4])),
            "figure_2": ({"stages": [4]}, (*read, self.posteriors[4], *final)),
            "figure_a5": (every, (self.dataset, self.network, self.representations)),
            "figure_a6": (every, (self.representations,)),
            "figure_a7": (every, (*read, *self.posteriors.values())),
            "figure_b3": (every | of_chains, (self.dataset, *self.posteriors.values())),
            "figure_b4": (scores_of(self.profile), (self.dataset, *self.controls.values())),
            "figure_b5": (left_out | scores_of(self.profile), (*read, *self.left_out.values())),
            "figure_b8": (left_out, (*read, *self.left_out.values(), self.test_densities)),
        }
        return known[name]
