"""The parts of README.md and FINDINGS.md on kept results, written from them: `python -m paper_repro.readme`."""

import csv
from pathlib import Path

from paper_repro.chains import tally
from paper_repro.figures import FIGURES, module
from paper_repro.keep import default_folder
from paper_repro.pipeline import protocol_folder
from paper_repro.profiles import PROFILES, PROTOCOLS
from paper_repro.storage import read_arrays, read_json, write_bytes

__all__ = ["BEGIN", "END", "findings", "kept_profiles", "section", "update"]

BEGIN, END = "<!-- kept results: written by python -m paper_repro.readme -->", "<!-- end of kept results -->"
NOTHING = "No run is kept in this repository yet; `paper-repro keep` keeps one."
MARKS = {"reproduced": "✓ ", "not reproduced": "✗ ", "inconclusive": "? "}


def section(results: Path) -> str:
    """Pictures and scorecard of every kept profile, as Markdown.

    Args:
        results: folder of kept results, as `paper-repro keep` leaves it; links are from the folder of the README, two
            above it.
    """
    parts = [_profile(results / name) for name in kept_profiles(results)]
    return "\n\n".join(parts) if parts else NOTHING


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
)
"""Figures whose numbers FINDINGS.md puts into words."""


def findings(results: Path) -> str:
    """What the figures of every kept profile and protocol say, as Markdown."""
    parts = []
    for name in kept_profiles(results):
        folder, profile = results / name, PROFILES[name]
        parts.append(f"### {profile.title}\n\n{profile.note} {_accuracy(folder)}".strip())
        for protocol in _protocols(folder):
            found = [figure for figure in FINDINGS if (folder / protocol / figure / "numbers.npz").is_file()]
            said = {f: module(f).finding(read_arrays(folder / protocol / f / "numbers.npz")) for f in found}
            lines = [f"- **{_sentence(FIGURES[f])}** {words}" for f, words in said.items()]
            said_of = f"<summary>{profile.title}, protocol <code>{protocol}</code></summary>"
            parts.append(f"<details>{said_of}\n\n" + "\n".join(lines) + "\n\n</details>")
    return "\n\n".join(parts) if parts else NOTHING


def kept_profiles(results: Path) -> list[str]:
    """Names of the profiles that are kept, in the order of `paper-repro list`."""
    return [name for name in PROFILES if (results / name).is_dir()]


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


def _profile(folder: Path) -> str:
    profile = PROFILES[folder.name]
    link = f"{folder.parent.parent.name}/{folder.parent.name}/{folder.name}"
    protocols = _protocols(folder)
    parts = [f"**{profile.title}.** {profile.note} {_accuracy(folder)}".replace("  ", " ").strip()]
    one = {f"{name}/figure_1/figure_1.png": f"protocol {name}" for name in protocols}
    for picture, which in ({"side_by_side/figure_1.png": "under each protocol"} | one).items():
        if (folder / picture).is_file():
            parts.append(f"![Figure 1, {which}: {FIGURES['figure_1']}]({link}/{picture})")
            break
    if scored := [name for name in protocols if (folder / name / "scorecard" / "scorecard.json").is_file()]:
        parts.append(_scorecard(folder, scored))
    parts += [words for name in protocols if (words := _convergence(folder, name))]
    for figure in ("figure_b7", "figure_b5"):
        if pictured := [name for name in protocols if (folder / name / figure / f"{figure}.png").is_file()]:
            words = f"Figure B.{figure[-1]}, protocol {pictured[-1]}: {FIGURES[figure]}"
            parts.append(f"![{words}]({link}/{pictured[-1]}/{figure}/{figure}.png)")
    reports = ", ".join(f"[{name}]({link}/{name}/report.html)" for name in protocols)
    parts.append(
        f"Reports with statistics, intervals and all figures that were drawn, by protocol: {reports} (HTML pages, to "
        f"be opened in a clone). `paper-repro draw --profile {profile.name} --runs-dir paper_repro/results` draws "
        "those of one `--protocol` again, in place, from the numbers that are kept beside them, without data or "
        "network."
    )
    return "\n\n".join(parts)


def _scorecard(folder: Path, protocols: list[str]) -> str:
    """One line a claim, one column a protocol; below, why there was nothing to test where there was not."""
    titles: dict[str, str] = {}
    verdicts: dict[str, dict[str, str]] = {name: {} for name in protocols}
    reasons: dict[str, list[str]] = {}
    for protocol in protocols:
        for claim in read_json(folder / protocol / "scorecard" / "scorecard.json"):
            titles[claim["name"]] = claim["title"]
            verdicts[protocol][claim["name"]] = MARKS[claim["verdict"]] + claim["verdict"]
            if not claim["parts"]:
                reasons.setdefault(claim["remark"], []).append(f"{claim['name']} under `{protocol}`")
    lines = [["the paper's claim", *(f"`{name}`" for name in protocols)], ["---"] * (1 + len(protocols))]
    for name in sorted(titles):
        lines.append([f"{name} {titles[name]}", *(verdicts[protocol].get(name, "–") for protocol in protocols)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = [f"{', '.join(names)}: {words}" for words, names in reasons.items()]
    return f"{table}\n\n{' '.join(said)}" if said else table


def _convergence(folder: Path, protocol: str) -> str:
    """How many fits of several chains passed the test of convergence; empty for other protocols."""
    path = folder / protocol / "classes" / "classes.csv"
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = tally(rows)
    if found.kind != "several":
        return ""
    if found.n_fits:  # the densities are theirs, not those of the fits to all points
        return (
            f"Under `{protocol}` {found.n_fits_converged:,} of {found.n_fits:,} fits that leave points out passed the "
            "test of convergence."
        )
    last = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    high = {row["class"] for row in last if row["above_largest_gap"] == "True"}
    return (
        f"Under `{protocol}` {found.n_converged} of {len(rows)} fits (of a class at a stage) passed the test of "
        f"convergence; at stage {last[0]['stage']} {len(high.difference(tally(last).flagged))} of the {len(high)} "
        "classes above the largest gap did. The others are flagged."
    )


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
    for page, written in (
        (results.parents[1] / "README.md", section(results)),
        (results.parent / "FINDINGS.md", findings(results)),
    ):
        print(f"{page.name} was {'written anew' if update(page, written) else 'up to date'}.")


if __name__ == "__main__":
    main()
