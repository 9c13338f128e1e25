"""The command `paper-repro`: list, run, trials, draw, check, keep, analyze."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from paper_repro.analyze import OPTIONS, SIZE, Analysis, load_model
from paper_repro.computations import draw as draw_figure
from paper_repro.figures import FIGURES
from paper_repro.given_scores import given, given_before, of_images
from paper_repro.pipeline import DENSITY_FIGURES, Pipeline, run_folder
from paper_repro.plan import describe, make_plan
from paper_repro.profiles import PROFILES, PROTOCOLS
from paper_repro.steps import BusyError, CannotError, DiscardError, KilledError, State, Step, Workspace
from paper_repro.storage import MENDABLE, DamagedError, read_json

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Ends with a word when it is stopped, which typer's own does not."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            errors.print("\nStopped. Run the same command again to go on from here.")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    help="Reproduce the figures of 'Neural Representations Reveal Distinct Modes of Class Fitting in Residual "
    "Convolutional Networks' (AAAI 2023).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

Figures = Annotated[
    list[str] | None, typer.Argument(metavar="[FIGURE]...", help="Figures to do; all if none is named.")
]
FiguresOrDensities = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FIGURE]...",
        help="Figures to do; `densities`: those that need nothing but the network, and the table of classes; "
        "all if none is named.",
    ),
]
ProfileName = Annotated[str, typer.Option("--profile", help="Dataset and network: see `paper-repro list`.")]
ProtocolName = Annotated[str, typer.Option("--protocol", help="How densities are fitted: see `paper-repro list`.")]
Seed = Annotated[int, typer.Option(help="One seed for all that is random; results of others than 0 lie apart.")]
Official = Annotated[
    bool, typer.Option("--official", help="Where the published code differs from the paper, do as the code.")
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Where the dataset is: a file or folder; the usual places if not given.")
]
Scores = Annotated[
    Path | None,
    typer.Option(
        "--scores",
        help="Memorization scores of the training images, an .npz as published (tr_mem, tr_labels), in place of "
        "networks on random subsets. They go with the results: later commands need not name them.",
        exists=True,
        dir_okay=False,
    ),
]
RunsDir = Annotated[Path, typer.Option(help="Folder for results.", file_okay=False)]

DENSITIES = "densities"

COLOURS = {
    State.DONE: "green",
    State.MISSING: "dim",
    State.UNFINISHED: "yellow",
    State.STALE: "yellow",
    State.DAMAGED: "red",
    State.KEPT: "green",
}


@app.command("list")
def list_(
    profile: ProfileName = "digits",
    protocol: ProtocolName = "paper",
    seed: Seed = 0,
    official: Official = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """List figures, profiles and protocols, and what has been done."""
    workspace, pipeline = _open(profile, protocol, seed, official, runs_dir)
    figures = _table("figure", "content", "state")
    for name, state in zip(pipeline.figures, workspace.states(pipeline.figures.values()), strict=True):
        figures.add_row(name, FIGURES[name], _coloured(state))
    where = escape(str(workspace.root))
    console.print(f"Figures under profile [b]{profile}[/], protocol [b]{protocol}[/], seed {seed}, in {where}")
    console.print(figures)
    for kind, known in (("profile", PROFILES), ("protocol", PROTOCOLS)):
        table = _table(kind, "content")
        for name, value in known.items():
            table.add_row(name, value.description)
        console.print(table)


@app.command()
def run(
    figures: FiguresOrDensities = None,
    profile: ProfileName = "digits",
    protocol: ProtocolName = "paper",
    seed: Seed = 0,
    official: Official = False,
    data: Data = None,
    scores: Scores = None,
    runs_dir: RunsDir = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try every step at full width on a few made images; keeps nothing.")
    ] = False,
) -> None:
    """Compute figures and the report. Finished steps are reused; a run that was stopped goes on where it was."""
    from paper_repro.report import write_report

    workspace, pipeline = _open(profile, protocol, seed, official, runs_dir, data, scores)
    _of_one_chain(protocol, official)
    named = _named(figures, pipeline)
    if scores and (dry_run or not pipeline.robustness):
        why = "is not for --dry-run" if dry_run else f"is of no use: no figure of {pipeline.profile.name} needs scores"
        raise typer.BadParameter(why, param_hint="--scores")
    if dry_run:
        from paper_repro.dry_run import dry_run as try_everything

        asked = named if figures else []
        with _said("the folder for temporary files (TMPDIR)"):
            try_everything(
                pipeline.profile, pipeline.protocol, official=official, figures=asked, console=console, data=data
            )
        return
    targets = [pipeline.figures[name] for name in named]
    if not figures or DENSITIES in figures:
        targets.append(pipeline.classes)
    if not figures:
        targets.append(pipeline.scorecard_of(named))
    if scores:
        targets.append(pipeline.robustness["memorization"])
    if data is not None and workspace.state(pipeline.dataset) == State.DONE:
        console.print(
            f"--data is not read: the images are already in {escape(str(workspace.folder(pipeline.dataset)))}"
        )
    with _working(workspace):
        computed = workspace.run([pipeline.dataset])
        if pipeline.scores and pipeline.robustness["memorization"] in workspace.to_do(targets):
            # Before anything is thrown away for them.
            of_images(pipeline.scores, workspace.work(pipeline.robustness["memorization"]))
        if (plan := make_plan(workspace, pipeline, targets)).n_steps:
            console.print(describe(plan))
        cannot = None
        try:
            computed += workspace.run(targets)
        except CannotError as error:
            cannot = error
        if figures or cannot:
            # Of the claims, those whose figures are there and up to date.
            behind = workspace.to_do(pipeline.figures.values(), kept=True)
            pipeline.scorecard = pipeline.scorecard_of(
                name for name, step in pipeline.figures.items() if step not in behind
            )
            computed += workspace.run([pipeline.scorecard] if pipeline.scorecard.inputs else [], kept=True)
        path = write_report(workspace, pipeline)
    if not computed and not cannot:
        console.print("Everything was up to date.")
    console.print("Report:")
    _print_path(path)
    if cannot:
        _fail(f"Not all could be computed. {cannot}")


@app.command()
def trials(
    shard: Annotated[str, typer.Option(help="i/n: the trials whose number leaves i when divided by n.")] = "0/1",
    profile: ProfileName = "digits",
    seed: Seed = 0,
    data: Data = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Share the memorization trials among processes or machines that see the same folder; `run` gathers them.

    Machines that do not: run `trials` on each, the one that is to gather them too, and copy the files
    checkpoint-trial-* of the others into its folder `memorization`.
    """
    from paper_repro.memorization import shard_of
    from paper_repro.robustness import estimate_memorization, memorization_trials

    try:
        part = shard_of(shard)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from None
    # They are the same under every protocol.
    workspace, pipeline = _open(profile, "paper", seed, False, runs_dir, data)
    if "memorization" not in pipeline.robustness:
        raise typer.BadParameter(f"{profile!r} has no memorization trials", param_hint="--profile")
    if pipeline.scores:
        _fail(
            f"The memorization scores of these results are given in {pipeline.scores.file}: there are no trials. To "
            f"estimate them, remove {workspace.root / 'memorization'}"
        )
    with _working(workspace):
        work = workspace.join(pipeline.robustness["memorization"])
    if work is None:
        console.print("All trials were finished.")
        return
    with _said(work.folder):
        workspace.say_how_long(f"shard {shard}", estimate_memorization(work, part))
        memorization_trials(work, part)
    n_finished, n_trials = len(list(work.folder.glob("checkpoint-trial-*"))), work.settings["n_trials"]
    console.print(f"{n_finished} of {n_trials} trials are finished, in")
    _print_path(work.folder)


@app.command()
def draw(
    figures: Figures = None,
    profile: ProfileName = "digits",
    protocol: ProtocolName = "paper",
    seed: Seed = 0,
    official: Official = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Draw figures and the report again from stored numbers: no network, no data, no fitting."""
    from paper_repro.report import write_report

    workspace, pipeline = _open(profile, protocol, seed, official, runs_dir)
    names = _known(figures, pipeline)
    states = {name: workspace.state(step, with_inputs=False) for name, step in pipeline.figures.items()}
    computed = [name for name, state in states.items() if state not in (State.MISSING, State.UNFINISHED)]
    if not computed:
        command = pipeline.command("run", runs_dir, figures or ())
        _fail(f"No figure is stored in {workspace.root / pipeline.folder}: use `{command}`")
    with _working(workspace):
        drawn = [name for name in names if _redraw(workspace, pipeline.figures[name], name)]
        path = write_report(workspace, pipeline)
    console.print(f"Drew {', '.join(drawn) or 'nothing'}.")
    left = [name for name in names if name not in drawn]
    missing = left if figures else [name for name in left if name in computed]
    if never := [name for name in left if name not in missing]:
        console.print(f"Never computed: {', '.join(never)}.")
    if missing:
        command = pipeline.command("run", runs_dir, missing)
        errors.print(
            f"[red]No whole numbers are stored for {', '.join(missing)}: use `{escape(command)}`[/]", soft_wrap=True
        )
    console.print("Report:")
    _print_path(path)
    if missing:
        raise typer.Exit(1)


@app.command()
def check(
    figures: Figures = None,
    profile: ProfileName = "digits",
    protocol: ProtocolName = "paper",
    seed: Seed = 0,
    official: Official = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Check that figures and scorecard are there, whole, and made with these settings; else the exit status is 1.

    Of results that were kept without what they were computed from, the hashes of what was left out are checked.
    """
    workspace, pipeline = _open(profile, protocol, seed, official, runs_dir)
    table = _table("figure", "state", "computed", "why")
    steps = {name: pipeline.figures[name] for name in _known(figures, pipeline)}
    if not figures:
        steps["scorecard"] = pipeline.scorecard
    states = workspace.states(steps.values())
    for (name, step), state in zip(steps.items(), states, strict=True):
        record = workspace.provenance(step) or {}
        table.add_row(name, _coloured(state), str(record.get("started", "")), _why(workspace, step, state))
    console.print(table)
    if (partial := sum(workspace.state(step, with_inputs=False) == State.KEPT for step in pipeline.steps)) > 0:
        console.print(f"Kept results: of {partial} steps behind them not all files were kept, only their hashes.")
    if any(state != State.DONE for state in states):
        raise typer.Exit(1)


@app.command()
def keep(
    profile: ProfileName = "digits",
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="Keep this one only; every one that has been run if not given.")
    ] = None,
    seed: Seed = 0,
    official: Annotated[bool, typer.Option("--official", help="Keep what was run with --official as well.")] = False,
    runs_dir: RunsDir = Path("runs"),
    into: Annotated[
        Path | None,
        typer.Option(help="Folder that is to hold PROFILE/; paper_repro/results of the checkout.", file_okay=False),
    ] = None,
) -> None:
    """Copy figures, scorecards, tables, reports and provenance, 10 MB at most, and small weights; no data, no fits.

    `draw`, `check` and `list` work on it with --runs-dir. What was kept of the profile before is replaced.
    """
    from paper_repro.keep import KeepError, default_folder
    from paper_repro.keep import keep as keep_results

    named = [protocol] if protocol else list(PROTOCOLS)
    opened = [
        _open(profile, name, seed, as_coded, runs_dir)
        for name in named
        for as_coded in ([False, True] if official else [False])
    ]
    workspace = opened[0][0]
    try:
        folder = default_folder() if into is None else into
        above = next(path for path in (folder, *folder.parents) if path.exists())
        if not above.is_dir():
            raise typer.BadParameter(f"{above} is a file", param_hint="--into")
        with _working(workspace), _said(folder):
            kept = keep_results(workspace, [pipeline for _, pipeline in opened], folder / workspace.root.name)
    except KeepError as error:
        _fail(str(error))
    for line in kept.lines():
        console.print(line, soft_wrap=True)
    _print_path(kept.folder)


@app.command()
def analyze(
    model: Annotated[
        str, typer.Option(help="package.module:function that returns a torch module, or a torchvision model.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Images: a folder or zip of class folders; where it has a folder `train`, those in it alone. All are "
            "held in memory, 3 x size^2 bytes each.",
            exists=True,
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="State dict: a safetensors file, or one of torch.save.", exists=True)
    ] = None,
    layers: Annotated[str, typer.Option(help="Layers to read, in order, with commas between.")] = OPTIONS["--layers"],
    dimensions: Annotated[
        str,
        typer.Option(
            help="Singular vectors kept of each layer; if not given 16 in the first half and 64 in the rest, or as "
            "many as the layer has channels or there are images."
        ),
    ] = "",
    size: Annotated[
        int, typer.Option(help="Pixels: the shorter side is brought to it, and the middle square cut out.", min=1)
    ] = SIZE,
    mean: Annotated[str, typer.Option(help="Of the pixels (0..1) by channel, as in training.")] = OPTIONS["--mean"],
    std: Annotated[str, typer.Option(help="Likewise.")] = OPTIONS["--std"],
    protocol: ProtocolName = "paper",
    seed: Seed = 0,
    official: Official = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Fit the classes of your own network on your own images: figures 1, 2, A.6, A.7 and B.5, and a report."""
    from paper_repro.report import write_report

    _known_names(protocol=protocol, seed=seed)
    _of_one_chain(protocol, official)
    try:
        pipeline = Analysis(
            load_model(model, weights),
            PROTOCOLS[protocol],
            model=model,
            data=data,
            weights=weights,
            layers=[layer.strip() for layer in layers.split(",")],
            dimensions=_numbers(dimensions, int, "--dimensions"),
            size=size,
            mean=_numbers(mean, float, "--mean"),
            std=_numbers(std, float, "--std"),
            seed=seed,
            official=official,
        )
        workspace = Workspace(runs_dir / pipeline.run_folder, console)
        with _working(workspace):
            if workspace.state(pipeline.dataset) == State.DONE:
                console.print(f"Images are those already in {escape(str(workspace.folder(pipeline.dataset)))}")
            workspace.run([pipeline.dataset])
            pipeline.refuse_few_images(workspace)
            n_images = read_json(workspace.folder(pipeline.dataset) / "dataset.json")["n_train"]
            if n_images < max(pipeline.profile.dimensions):
                pipeline = pipeline.of_images(n_images)
            pipeline.refuse_other_code(workspace)
            workspace.run([*pipeline.figures.values(), pipeline.classes, pipeline.scorecard])
            path = write_report(workspace, pipeline)
    except ValueError as error:  # what was given: a model, weights, layers, images
        _fail(str(error))
    console.print("Report:")
    _print_path(path)


def main() -> None:
    # Threads that wait should sleep: spinning makes training ten times slower when other work shares the processors.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal that has no such letters is no reason to stop
        sys.stdout.reconfigure(errors="replace")
    app(prog_name="paper-repro")


def _open(
    profile: str,
    protocol: str,
    seed: int,
    official: bool,
    runs_dir: Path,
    data: Path | None = None,
    scores: Path | None = None,
) -> tuple[Workspace, Pipeline]:
    _known_names(protocol=protocol, seed=seed, profile=profile)
    workspace = Workspace(runs_dir / run_folder(profile, seed), console)
    with _said(workspace.root):
        found = given(scores, workspace) if scores else given_before(workspace)
    pipeline = Pipeline(PROFILES[profile], PROTOCOLS[protocol], seed=seed, official=official, data=data, scores=found)
    pipeline.scorecard = pipeline.scorecard_there(workspace)
    return workspace, pipeline


def _known_names(*, protocol: str, seed: int, profile: str = "digits") -> None:
    for name, known, option in ((profile, PROFILES, "--profile"), (protocol, PROTOCOLS, "--protocol")):
        if name not in known:
            raise typer.BadParameter(f"{name!r} is unknown; known: {', '.join(known)}", param_hint=option)
    if seed < 0:
        raise typer.BadParameter(f"must not be negative, got {seed}", param_hint="--seed")


def _of_one_chain(protocol: str, official: bool) -> None:
    if official and PROTOCOLS[protocol].density != "chain":
        raise typer.BadParameter(f"is for the published sampler, not for {protocol!r}", param_hint="--official")


def _numbers(text: str, kind: type, option: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        numbers = "whole numbers" if kind is int else "numbers"
        raise typer.BadParameter(f"must be {numbers} with commas between, got {text!r}", param_hint=option) from None


def _named(figures: list[str] | None, pipeline: Pipeline) -> list[str]:
    """The figures that `run` was asked for: all if none is named, and those behind the word `densities`."""
    names = [name for name in figures or [] if name != DENSITIES]
    if figures and DENSITIES in figures:
        names += [name for name in DENSITY_FIGURES if name in pipeline.figures]
    return _known(names, pipeline)


def _known(figures: list[str] | None, pipeline: Pipeline) -> list[str]:
    """The figures that were asked for, or all that the profile has."""
    known = list(pipeline.figures)
    for name in figures or []:
        if name not in known:
            why = f"is not in profile {pipeline.profile.name}" if name in FIGURES else "is unknown"
            others = [other.name for other in PROTOCOLS.values() if name in pipeline.under(other).figures]
            if others:
                why += f" under {pipeline.folder}, but under {', '.join(others)}"
            raise typer.BadParameter(f"{name!r} {why}; known: {', '.join(known)}", param_hint="FIGURE")
    return list(dict.fromkeys(figures)) if figures else known


def _redraw(workspace: Workspace, step: Step, name: str) -> bool:
    """Draw from stored numbers, if they are there and whole, and what this version draws from."""
    if workspace.provenance(step) is None or "numbers.npz" in workspace.damaged_files(step):
        return False
    try:
        draw_figure(workspace.folder(step), name)
    except KeyError:
        if workspace.state(step, with_inputs=False) == State.STALE:
            return False
        raise
    workspace.record(step)
    return True


def _why(workspace: Workspace, step: Step, state: State) -> str:
    if state == State.DAMAGED:
        return f"damaged or missing: {', '.join(workspace.damaged_files(step)) or 'provenance.json'}"
    if state == State.STALE:
        behind = [
            f"{step_in.name} is {found}"
            for step_in in step.inputs
            if (found := workspace.state(step_in)) not in (State.DONE, State.KEPT)
        ]
        return "; ".join(behind) or "settings or inputs have changed since"
    return ""


@contextmanager
def _working(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace."""
    with _said(workspace.root), ExitStack() as held:
        try:
            held.enter_context(workspace.lock())
        except OSError as error:
            if error.errno in MENDABLE:
                raise
            words = f"{workspace.root} cannot be written to ({error.strerror})"
            raise typer.BadParameter(words, param_hint="--runs-dir") from None
        yield


@contextmanager
def _said(where: Path | str) -> Iterator[None]:
    """What the user can put right ends the command with its message alone. A full disk does not say `where` it is."""
    try:
        yield
    except (BusyError, DiscardError, KilledError) as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        place = error.filename2 or error.filename or where
        _fail(f"{error.strerror}: {place}. Put that right, then run the same command again.")
    except ValueError as error:
        # By name: importing them brings in torch.
        by_name = ("DatasetError", "ScoresError", "CheckpointError")
        if not isinstance(error, CannotError | DamagedError) and type(error).__name__ not in by_name:
            raise
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    errors.print(f"[red]{escape(message)}[/]", soft_wrap=True)
    raise typer.Exit(1) from None


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def _coloured(state: State) -> str:
    return f"[{COLOURS[state]}]{state}[/]"


def _print_path(path: Path) -> None:
    # Not through rich: it would break a long path into lines.
    typer.echo(str(path.resolve()))
