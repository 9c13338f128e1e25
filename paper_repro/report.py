"""report.html: one page from what the steps have stored; no network, no data.

It is self-contained, but for the report on kept results: that shows the pictures that lie beside it.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.chains import displayed, summary, until_stopped
from paper_repro.claims import CLAIMS
from paper_repro.computations import WARNINGS
from paper_repro.figures import label, style, title
from paper_repro.figures import module as figure_module
from paper_repro.pipeline import ANY_PROTOCOL, DEFAULTS, Pipeline, run_folder
from paper_repro.profiles import PROTOCOLS, Protocol
from paper_repro.side_by_side import Comparison, compare
from paper_repro.statistics import gap_p_value, is_split
from paper_repro.steps import State, Step, Workspace
from paper_repro.storage import read_arrays, read_csv, read_json, write_bytes

__all__ = ["write_report", "write_reports"]

MANY_FLAGGED = 12
"""More names of classes than these are folded."""
SPARK_POINTS, SPARK_HEIGHT = 110, 44


def write_report(workspace: Workspace, pipeline: Pipeline) -> Path:
    """Write the report on all that is stored for this pipeline; returns its path.

    What is stored but was made with other settings is shown and marked; what is not stored is left out and said to be.
    Reports of other protocols that are up to date with this one are written too, because they compare themselves with
    it. A report in which nothing but the date would change is left as it is.
    """
    comparison = compare(workspace, pipeline)
    if comparison is not None:
        for other in comparison.others_to_write(pipeline):
            other.scorecard = other.scorecard_there(workspace)
            _write(workspace, other, comparison)
    return _write(workspace, pipeline, comparison)


def write_reports(workspace: Workspace, pipelines: Sequence[Pipeline]) -> None:
    """Write the reports of several protocols, as `write_report`: what compares them is drawn once."""
    comparison = compare(workspace, pipelines[0])
    for pipeline in pipelines:
        _write(workspace, pipeline, comparison)


def _write(workspace: Workspace, pipeline: Pipeline, comparison: Comparison | None) -> Path:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"thousands": lambda value: f"{value:,}", "code": _code, "label": label}
    kept = workspace.state(pipeline.dataset, with_inputs=False) == State.KEPT

    def command(verb: str, *figures: str) -> str:
        """Kept results are read where they lie, wherever that is, and added to in a copy."""
        there = Path(DEFAULTS["--runs-dir"] if verb == "run" else "FOLDER") if kept else workspace.root.parent
        return pipeline.command(verb, there, figures)

    page = environment.get_template("report.html").render(
        profile=pipeline.profile,
        protocol=pipeline.protocol,
        official=pipeline.official,
        seed=pipeline.seed,
        dataset=_stored_json(workspace, pipeline.dataset, "dataset.json"),
        network=_stored_json(workspace, pipeline.network, "network.json"),
        # Those of a network that is given, by name.
        layers=list(pipeline.representations.settings.get("layers", {}).values()),
        channels=pipeline.profile.channels,
        stem={"cifar": "3 × 3, stride 1", "mini-imagenet": "3 × 3, stride 3"}[pipeline.profile.stem],
        claims=_stored_json(workspace, pipeline.scorecard, "scorecard.json") or [],
        side_by_side=comparison and _side_by_side(comparison),
        figures=[_figure(workspace, step, name) for name, step in pipeline.figures.items()],
        stages=_stages(workspace, pipeline),
        kept_from=_kept_from(pipeline.protocol),
        many=MANY_FLAGGED,
        steps=_steps(workspace, pipeline),
        software=_software(workspace, pipeline),
        command=command,
        kept=kept,
        kept_weights=kept and _all_networks(workspace, pipeline),
        folder=run_folder(pipeline.profile.name, pipeline.seed),
        written=f"{datetime.now().astimezone():%d %B %Y, %H:%M}",
    )
    path = workspace.root / pipeline.folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = page.encode()
    # As bytes: a damaged report need not be text.
    if not path.exists() or _undated(path.read_bytes()) != _undated(written):
        write_bytes(path, written)
    return path


def _undated(page: bytes) -> bytes:
    return re.sub(rb"Written [^<]*", b"", page)


def _figure(workspace: Workspace, step: Step, name: str) -> dict[str, Any]:
    state = workspace.state(step, with_inputs=False)
    stages = step.settings.get("stages", ())
    about: dict[str, Any] = {"name": name, "title": title(name, stages), "state": state, "label": label(name)}
    if state not in (State.DONE, State.STALE):
        others = PROTOCOLS if name in ANY_PROTOCOL else ()
        found = (other for other in others if (workspace.root / other / name / f"{name}.svg").is_file())
        return about | {"elsewhere": next(found, "")}
    folder, module = workspace.folder(step), figure_module(name)
    stored = read_arrays(folder / "numbers.npz")
    try:
        words = {part: getattr(module, part)(stored) for part in ("caption", "look_for", "finding")}
    except KeyError:
        if state == State.STALE:  # numbers of another version, which kept others
            return about | {"elsewhere": ""}
        raise
    return about | words | {"svg": inline_svg((folder / f"{name}.svg").read_text(encoding="utf-8"), name)}


def _side_by_side(comparison: Comparison) -> dict[str, Any]:
    """What the template shows of all protocols."""
    results = comparison.results
    claims = [
        {"name": name, "title": test.title, "verdicts": [result.verdicts.get(name, "–") for result in results]}
        for name, test in CLAIMS.items()
        if any(name in result.verdicts for result in results)
    ]
    pictures = [
        {
            "name": name,
            "label": label(name),
            "caption": comparison.caption(name),
            "svg": inline_svg((comparison.folder / f"{name}.svg").read_text(encoding="utf-8"), f"protocols-{name}"),
        }
        for name in comparison.pictures
    ]
    absent = [
        f"{label(name)} is stored under {' and '.join(f'`{protocol}`' for protocol in names)} only."
        for name, names in comparison.absent.items()
        if names
    ]
    return {
        "paragraph": comparison.paragraph,
        "protocols": {result.name: result.pipeline.protocol.description for result in results},
        "claims": claims,
        "pictures": pictures,
        "absent": " ".join(absent),
    }


def _code(text: str) -> Any:
    """What stands between backticks as code, for the page."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _all_networks(workspace: Workspace, pipeline: Pipeline) -> bool:
    """Whether of every network that was trained, and whose classes are fitted, the weights are there."""
    trained = [step for step in pipeline.networks if workspace.provenance(step)]
    return all(workspace.state(step, with_inputs=False) == State.DONE for step in trained)


def inline_svg(svg: str, name: str) -> str:
    """The <svg> element alone, with names of its own and the colours of the page, so that it follows light and dark."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|href="#|url\(#|\bclass="|(?<=})\.(?=\w+{))', rf"\g<1>{name}-", svg)
    for variable, colour in _page_colours().items():
        svg = re.sub(re.escape(colour), f"var(--{variable})", svg, flags=re.IGNORECASE)
    # The page sets the width; the height follows from the view box.
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\g<1>", svg, count=1)


def _page_colours() -> dict[str, str]:
    names = ("ink", "muted", "grid", "card", "low", "high")
    return dict(zip(names, (style.INK, style.MUTED, style.GRID, style.PAPER, style.LOW, style.HIGH), strict=True))


def _stages(workspace: Workspace, pipeline: Pipeline) -> list[dict[str, Any]]:
    """The table of classes, stage by stage, with the traces of their chains."""
    folder = workspace.folder(pipeline.classes)
    if workspace.state(pipeline.classes, with_inputs=False) not in (State.DONE, State.STALE):
        return []
    rows, traces = read_csv(folder / "classes.csv"), read_arrays(folder / "traces.npz")
    warnings = _stored_json(workspace, pipeline.classes, WARNINGS) or {}
    stages = []
    for stage, dimension in zip(pipeline.posteriors, pipeline.profile.dimensions, strict=True):
        of_stage = [row for row in rows if row["stage"] == str(stage)]
        if not of_stage:  # stored before this stage was read
            continue
        for g, row in enumerate(of_stage):
            for name in ("n_components", "log_joint"):
                values = traces.get(f"{name}_{stage}")
                row[f"{name}_trace"] = "" if values is None else sparkline(values[..., g])
        means = np.array([float(row["mean_log_density_nats"]) for row in of_stage])
        about = {"number": stage, "dimension": dimension, "rows": of_stage, "chains": displayed(of_stage)}
        about["warnings"] = warnings.get(str(stage), [])
        p = gap_p_value(means)
        about |= {"gap_p": p, "grouped": is_split(means, p)}
        stages.append(about | summary(of_stage))
    return stages


def _kept_from(protocol: Protocol) -> float:
    """The share of the sweeps before those that are kept: of several chains the second half is."""
    return protocol.n_discard / protocol.n_sweeps if protocol.density == "chain" else 0.5


def sparkline(values: np.ndarray) -> str:
    """A line through the values [n_sweeps], or one a chain [n_sweeps, C], as wide and high as the page says.

    Sweeps after a group had stopped are left out. A report has hundreds, so each is short: SPARK_POINTS at most, one
    unit apart and on whole units of height.
    """
    values = until_stopped(values.reshape(len(values), -1).astype(float))
    chosen = np.linspace(0, len(values) - 1, min(len(values), SPARK_POINTS)).round().astype(int)
    low, high = float(values.min()), float(values.max())
    y = np.rint(SPARK_HEIGHT - 4 - (values[chosen] - low) / ((high - low) or 1) * (SPARK_HEIGHT - 8)).astype(int)
    box = f'viewBox="0 0 {max(len(chosen) - 1, 1)} {SPARK_HEIGHT}" preserveAspectRatio="none"'
    words = f"from {values[0].mean():.4g} to {values[-1].mean():.4g}"
    lines = "".join(f"M0 {chain[0]}{_unit_steps(np.diff(chain))}" for chain in y.T)
    return f'<svg class="spark" {box} role="img" aria-label="{words}"><path d="{lines}"/></svg>'


def _unit_steps(down: np.ndarray) -> str:
    """Lines to points one unit further right and so much further down; level ones joined."""
    found = ""
    for step, alike in groupby(down.tolist()):
        n = len(list(alike))
        found += f"l1{step: d}" * n if step else f"h{n}"
    return found


def _steps(workspace: Workspace, pipeline: Pipeline) -> list[dict[str, Any]]:
    """Time and memory of each step that is stored."""
    found = []
    for step in pipeline.steps:
        record = workspace.provenance(step)
        if record:
            found.append({"state": State.DONE if record["fingerprint"] == step.fingerprint else State.STALE, **record})
    return found


def _software(workspace: Workspace, pipeline: Pipeline) -> dict[str, Any] | None:
    """Versions and machine of the newest stored step, and in words those of steps that ran on others."""
    records = [record for step in pipeline.steps if (record := workspace.provenance(step))]
    if not records:
        return None
    newest = max(records, key=lambda record: record["started"])
    elsewhere: dict[str, list[str]] = {}
    for record in records:
        if (words := _where(record)) != _where(newest):
            elsewhere.setdefault(words, []).append(record["step"])
    return {**newest, "where": _where(newest), "elsewhere": elsewhere}


def _where(record: dict[str, Any]) -> str:
    """Machine and version of torch of a step."""
    machine, torch = record["machine"], record["versions"].get("torch")
    gpu = [machine["gpu"]] if "gpu" in machine else []
    return ", ".join([*gpu, machine["processor"], f"cores: {machine['cores']}", machine["system"], f"torch {torch}"])


def _stored_json(workspace: Workspace, step: Step, name: str) -> Any:
    try:
        return read_json(workspace.folder(step) / name)
    except (OSError, ValueError):
        return None
