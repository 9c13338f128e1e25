"""The parts of README.md and FINDINGS.md on kept results, written from them: `python -m paper_repro.readme`."""

from pathlib import Path

from paper_repro import across_networks
from paper_repro.chains import tally
from paper_repro.figures import FIGURES, label, module
from paper_repro.keep import KeptRun, default_folder, kept_runs
from paper_repro.pipeline import protocol_folder
from paper_repro.profiles import PROTOCOLS
from paper_repro.storage import read_arrays, read_csv, read_json, write_bytes

__all__ = ["BEGIN", "END", "findings", "section", "update"]

BEGIN, END = "<!-- kept results: written by python -m paper_repro.readme -->", "<!-- end of kept results -->"
NOTHING = "No run is kept in this repository yet; `paper-repro keep` keeps one."
MARKS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}


def section(results: Path) -> str:
    """Networks, scorecards and the first network's pictures of all kept runs, as Markdown.

    Args:
        results: folder of kept results, as `paper-repro keep` leaves it; links are from the folder of the README, two
            above it.
    """
    runs = kept_runs(results)
    if not runs:
        return NOTHING
    redrawn = (
        "The reports that protocols are linked to have the statistics, intervals and all figures (HTML pages, to be "
        "opened in a clone). `paper-repro draw --profile NAME --protocol NAME --runs-dir paper_repro/results` draws "
        "one again, in place, from the numbers kept beside it, without data or network."
    )
    notes = [f"- **{run.title}.** {run.profile.note} {_accuracy(run.folder)}" for run in runs]
    parts = [_scorecards(runs), "\n".join(map(_tidy, notes)), redrawn, *_pictures(runs[0])]
    return "\n\n".join([*parts, *across_networks.picture(results)])


FINDINGS = (
    "figure_a7",
    "figure_2",
    "figure_a8",
    "figure_3",
    "figure_4",
    "figure_a11",
    "figure_b1",
    "figure_b2",
    "figure_b3",
    "figure_b4",
    "figure_b5",
    "figure_b6",
    "figure_b7",
    "figure_b8",
    "figure_b9",
    "figure_b10",
    "figure_b11",
)
"""Figures whose numbers FINDINGS.md puts into words."""


def findings(results: Path) -> str:
    """What the figures of every kept run and protocol say, as Markdown."""
    parts = []
    for run in kept_runs(results):
        folder = run.folder
        parts.append(f"### {run.title}\n\n{_tidy(f'{run.profile.note} {_accuracy(folder)}')}")
        for protocol in _protocols(folder):
            found = [figure for figure in FINDINGS if (folder / protocol / figure / "numbers.npz").is_file()]
            said = {f: module(f).finding(read_arrays(folder / protocol / f / "numbers.npz")) for f in found}
            lines = [f"- **{_sentence(FIGURES[f])}** {words}" for f, words in said.items()]
            said_of = f"<summary>{run.title}, protocol <code>{protocol}</code></summary>"
            parts.append(f"<details>{said_of}\n\n" + "\n".join(lines) + "\n\n</details>")
    return "\n\n".join(filter(None, [across_networks.section(results), *parts])) if parts else NOTHING


def update(page: Path, written: str) -> bool:
    """Write the section between its two marks in the page; whether that changed anything.

    Raises:
        ValueError: the marks are not there, in order and once each.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page} must have the marks {BEGIN} and {END}, in this order and once each")
    before, rest = text.split(BEGIN)
    after = f"{before}{BEGIN}\n{written}\n{END}{rest.split(END)[1]}"
    if after != text:
        write_bytes(page, after.encode())
    return after != text


def _sentence(title: str) -> str:
    return title if title.endswith("?") else f"{title}."


LEGENDS = {
    "figure_1": "A mark is the mean of a class, a bar one standard deviation to each side. Orange: classes above the "
    "largest gap, where chance seldom leaves such a gap or spreads are much smaller above it; rings: those of the "
    "first protocol.",
    "figure_b7": "The same points sorted twice, by their density as fitted and as if each had been left out of its "
    "fit, and cut into bins of equal size: a bin holds other points in one order than in the other.",
    "figure_b5": "Squares: the same classes, with each point left out of its fit.",
}
"""What the pictures show, for who has not seen them."""


def _pictures(run: KeptRun) -> list[str]:
    folder = run.folder
    link, protocols = _link(folder), _protocols(folder)
    one = {f"{name}/figure_1/figure_1.png": f"protocol {name}" for name in reversed(protocols)}
    found = {"figure_1": one | {"side_by_side/figure_1.png": "under each protocol"}}
    for figure in ("figure_b7", "figure_b5"):
        found[figure] = {f"{name}/{figure}/{figure}.png": f"protocol {name}" for name in protocols}
    parts = []
    for figure, pictures in found.items():
        there = [(path, which) for path, which in pictures.items() if (folder / path).is_file()]
        if there:
            path, which = there[-1]
            shown = f"{label(figure)}, {which}: {FIGURES[figure]}"
            parts += [f"![{shown}]({link}/{path})", f"*{label(figure)}.* {LEGENDS[figure]}"]
    return [f"**{run.title}, in pictures:**", *parts] if parts else []


def _scorecards(runs: list[KeptRun]) -> str:
    """One line a network and protocol, one column a claim; below, why there was nothing to test where there was not."""
    titles: dict[str, str] = {}
    found: list[tuple[KeptRun, str, dict[str, str]]] = []
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        for protocol in _protocols(run.folder):
            path = run.folder / protocol / "scorecard" / "scorecard.json"
            claims = read_json(path) if path.is_file() else []
            found.append((run, protocol, {claim["name"]: MARKS[claim["verdict"]] for claim in claims}))
            titles |= {claim["name"]: claim["title"] for claim in claims}
            for remark in dict.fromkeys(claim["remark"] for claim in claims if not claim["parts"]):
                same = [c["name"] for c in claims if not c["parts"] and c["remark"] == remark]
                reasons.setdefault((run.title, " and ".join(same), remark), []).append(f"`{protocol}`")
    names = sorted(titles)
    lines = [["network", "protocol", *names, "fits that converged"], ["---", "---", *[":-:"] * len(names), "---"]]
    for run, protocol, marks in found:
        cells = [marks.get(name, "–") for name in names]
        link = f"[{protocol}]({_link(run.folder)}/{protocol}/report.html)"
        network = run.title if protocol == _protocols(run.folder)[0] else ""
        lines.append([network, link, *cells, _convergence(run.folder, protocol) or "–"])
    claims_in_words = "; ".join(f"{name} {titles[name]}" for name in names)
    said = [
        f"{title}, {claims} under {' and '.join(protocols)}: {remark}"
        for (title, claims, remark), protocols in reasons.items()
    ]
    return "\n\n".join(
        [
            "\n".join(f"| {' | '.join(line)} |" for line in lines),
            "✓ reproduced, ✗ not reproduced, ? inconclusive, – not tested: under that protocol, or because it needs "
            f"networks or scores that this one has not. The claims: {claims_in_words}.",
            *said,
        ]
    )


def _convergence(folder: Path, protocol: str) -> str:
    """How many fits of several chains passed the test of convergence; empty for other protocols."""
    path = folder / protocol / "classes" / "classes.csv"
    if not path.is_file():
        return ""
    found = tally(read_csv(path))
    if found.kind != "several":
        return ""
    if found.n_fits:  # the densities are theirs, not those of the fits to all points
        return f"{found.n_fits_converged:,} of {found.n_fits:,}"
    return f"{found.n_converged:,} of {found.n_classes:,}"


def _link(folder: Path) -> str:
    return f"{folder.parent.parent.name}/{folder.parent.name}/{folder.name}"


def _tidy(words: str) -> str:
    return words.replace("  ", " ").strip()


def _protocols(folder: Path) -> list[str]:
    """Folders of protocols, in the order of `paper-repro list`, each before what was run with --official."""
    names = [protocol_folder(protocol, official) for protocol in PROTOCOLS.values() for official in (False, True)]
    # Of `converged` the fits alone may be there, for `heldout`.
    return [name for name in names if (folder / name / "report.html").is_file()]


def _accuracy(folder: Path) -> str:
    path = folder / "network" / "network.json"
    if not path.is_file():
        return ""
    reached = read_json(path)
    test, train = reached["test_accuracy"], reached["train_accuracy"]
    return f"The network classifies {test:.1%} of the test and {train:.1%} of the training images rightly."


def main() -> None:
    results = default_folder()
    across_networks.write(results)
    for page, written in (
        (results.parents[1] / "README.md", section(results)),
        (results.parent / "FINDINGS.md", findings(results)),
    ):
        print(f"{page.name} was {'written anew' if update(page, written) else 'up to date'}.")


if __name__ == "__main__":
    main()
