"""How figures look: one palette, one heading, and how they are saved."""

import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.patches import PathPatch
from matplotlib.path import Path as MplPath

from paper_repro.storage import Stored, write_bytes

__all__ = [
    "LINE_POINTS",
    "Stored",
    "above",
    "bars",
    "canvas",
    "class_axis",
    "compact_svg",
    "name_points",
    "nats",
    "protocol",
    "rank",
    "save",
    "signed",
    "styled",
]

P = ParamSpec("P")

# Okabe & Ito (2008): told apart with every common kind of colour blindness; the two groups differ in shape as well.
INK, MUTED, GRID, PAPER = "#1b1f27", "#646b78", "#e2e5ea", "#fefefe"
LOW, HIGH, LINE = "#0072b2", "#d55e00", "#009e73"
MARKERS = {False: "o", True: "D"}
DASHES: Any = (0, (5, 4))

MANY_CLASSES = 25
"""From this many classes on, single classes are not named."""

WIDE_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS")
"""For names of classes in scripts that DejaVu has no letters of: the first one that is installed."""

_RC: Any = {
    "font.family": ["DejaVu Sans", *[name for name in WIDE_FONTS if name in get_font_names()][:1]],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names of classes may have dollar signs
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "paper_repro",
}

HEAD_INCHES, DPI = 0.62, 100
PNG_COLOURS, PNG_DPI = 128, 160
_SAID_OF_SVG = ("Creator", "Date", "Format", "Type")
"""Metadata that matplotlib writes of itself, and that are left out."""
LINE_POINTS = 9
"""Height of a line of small print."""


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A `draw` function that runs in this style, whatever the caller has set in matplotlib."""

    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(mpl.rcParamsDefault | _RC):
            return draw(*args, **kwargs)

    in_style.__doc__ = draw.__doc__
    return in_style


def canvas(title: str, stored: Stored, *, width: float, height: float) -> Figure:
    """An empty figure of this size in inches under a title and the line that says what was run."""
    figure = Figure(figsize=(width, height + HEAD_INCHES), dpi=DPI)
    total = height + HEAD_INCHES
    figure.set_layout_engine("constrained", rect=(0, 0, 1, height / total), w_pad=0.08, h_pad=0.06)
    figure.text(0.08 / width, 1 - 0.14 / total, title, fontsize=12, fontweight="bold", va="top")
    figure.text(0.08 / width, 1 - 0.40 / total, str(stored["subtitle"]), fontsize=8.5, color=MUTED, va="top")
    return figure


def class_axis(axes: Axes, names: list[str]) -> None:
    """Classes side by side in the order given, named if there are few of them."""
    room = 0.7 + 0.01 * len(names)  # marks at the ends are whole
    axes.set_xlim(-room, len(names) - 1 + room)
    if len(names) < MANY_CLASSES:
        longest = max(len(name) for name in names)
        axes.set_xticks(
            range(len(names)), names, rotation=0 if longest <= 3 else 60, ha="center" if longest <= 3 else "right"
        )
    axes.tick_params(axis="x", length=0)


def above(axes: Axes, text: str) -> None:
    """Small print above the axes; the title must leave room for it."""
    axes.annotate(
        text, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=7, color=MUTED, annotation_clip=False
    )


def name_points(axes: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Write each name beside its point, on the side that is furthest from other points and names (if there are few)."""
    if len(names) >= MANY_CLASSES:
        return
    axes.autoscale_view()  # until then the limits, and with them the places of points, are not known
    scale = DPI / 72
    where = axes.transAxes.inverted().transform(axes.transData.transform(np.column_stack([x, y])))
    where *= np.array([axes.bbox.width, axes.bbox.height]) / scale
    sides = np.array([(8, 7), (-8, 7), (8, -7), (-8, -7), (10.6, 0), (-10.6, 0)])
    written: list[np.ndarray] = []
    for g, name in enumerate(names):
        others = [*np.delete(where, g, axis=0), *written]
        # Room beyond two widths of a mark counts no more: then the first side will do.
        room = [min([20.0, *(float(np.hypot(*(where[g] + side - other))) for other in others)]) for side in sides]
        side = sides[int(np.argmax(room))]
        written.append(where[g] + side)
        axes.annotate(name, (x[g], y[g]), side, textcoords="offset points", fontsize=8, ha="center", va="center")


def bars(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, **look: Any) -> None:
    """Upright lines at x [n] from low to high, as one path: in a vector picture they take two thirds of the bytes."""
    ends = np.stack([x, low, x, high], axis=1).reshape(-1, 2)
    path = MplPath(ends, np.tile([MplPath.MOVETO, MplPath.LINETO], len(x)))
    axes.add_patch(PathPatch(path, fill=False, capstyle="butt", **look))


def of_the_run(stored: Stored) -> str:
    """The note of a run, in the caption of a figure that is of another network than the run's."""
    return f"Of the run as a whole: {note}" if (note := str(stored["note"])) else ""


def protocol(stored: Stored) -> str:
    """Its name, from the line that says what was run; empty if that names none."""
    named = re.search(r" · protocol (\w+)", str(stored["subtitle"]))
    return named[1] if named else ""


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, and a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def rank(value: float) -> str:
    """A rank correlation; only one that is 1 or -1 is called so."""
    if not np.isfinite(value):
        return "undefined"
    return signed(value, 3 if 0.995 <= abs(value) < 1 - 1e-9 else 2)


def nats(value: float) -> str:
    """A log-density in words, with a true minus."""
    return f"{value:.1f}".replace("-", "−")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write the picture as SVG (transparent) and PNG (white), both small; the same figure gives the same bytes."""
    with mpl.rc_context(_RC):
        _settle(figure)
        _on_paper(figure, "none")
        svg = io.StringIO()
        figure.savefig(svg, format="svg", dpi=PNG_DPI, metadata=dict.fromkeys(_SAID_OF_SVG))
        _on_paper(figure, "white")
        figure.dpi = PNG_DPI
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    write_bytes(folder / f"{name}.svg", compact_svg(svg.getvalue()).encode())
    write_bytes(folder / f"{name}.png", _few_colours(np.asarray(canvas.buffer_rgba())))


def _on_paper(figure: Figure, colour: str) -> None:
    figure.set_facecolor(colour)
    for axes in figure.axes:
        axes.set_facecolor(colour)


def compact_svg(svg: str) -> str:
    """The same picture in half the bytes or fewer: hundredths of a point, lines by their steps, letters by their
    places, short names of what is used again and of nothing else, and looks that several share said once."""
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"(?<=>)\s+(?=<)", "", svg)
    svg = re.sub(r' xmlns:xlink="[^"]*"|\bxlink:(?=href=)', "", svg)  # since SVG 2
    svg = svg.replace(">*{", ">svg{")  # what each element were told, it would not take from its group
    svg = _short_names(svg)
    svg = _LETTER.sub(r'\1 x="\2" y="\3"/>', svg).replace(' y="0"/>', "/>")
    svg = re.sub(r'\b(d="|x="|y="|translate\()([^")]*)', lambda found: found[1] + _hundredths(found[2]), svg)
    svg = re.sub(r'(?<=\bd=")(?:[ML]-?[\d.]+ -?[\d.]+|z)+(?=")', lambda found: _by_steps(found[0]), svg)
    svg = _ALIKE.sub(_said_once, svg)
    svg = re.sub(r' style="[^"]*"', lambda found: re.sub("(?<=[:;]) ", "", found[0]), svg)
    return _by_class(svg)


# A letter of a text, at its place in the line.
_LETTER = re.compile(r'(<use href="#\w+") transform="translate\((-?[\d.]+) (-?[\d.]+)\)"/>')
# Elements side by side with the same clip path and style; not definitions, which do not inherit where they are used.
_ALIKE = re.compile(r'<(path|use)(?! id=) [^<>]*?((?: clip-path="[^"]*")? style="[^"]*")/>(?:<\1(?! id=) [^<>]*?\2/>)+')


def _short_names(svg: str) -> str:
    used = dict.fromkeys(re.findall(r'(?:href="#|url\(#)([^")]*)', svg))
    short = {name: f"i{k:x}" for k, name in enumerate(used)}
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{short[found[1]]}"' if found[1] in short else "", svg)
    svg = re.sub(r'(href="#|url\(#)([^")]*)', lambda found: found[1] + short[found[2]], svg)
    n = 1
    while n:
        svg, n = re.subn(r"<g>(<[^<>]*/>)?</g>|<g/>", r"\1", svg)
    return svg


def _said_once(found: re.Match[str]) -> str:
    if re.search(r'[" ;]opacity:', found[2]):  # of a group it would be another thing
        return found[0]
    return f"<g{found[2]}>{found[0].replace(f'{found[2]}/>', '/>')}</g>"


def _hundredths(path: str) -> str:
    path = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), path)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", path).strip()


def _by_steps(path: str) -> str:
    """Lines from point to point: a step has fewer digits than a place. In hundredths, so that nothing adds up."""
    place, found = (0, 0), ""
    for letter, x, y in re.findall(r"([ML])([^MLz ]+) ([^MLz]+)|z", path):
        if not letter:
            found += "z"
            continue
        there = (round(100 * float(x)), round(100 * float(y)))
        along, down = (f"{(b - a) / 100:.2f}".rstrip("0").rstrip(".") for a, b in zip(place, there, strict=True))
        step = f"h{along}" if down == "0" else f"v{down}" if along == "0" else f"l{along} {down}"
        found += f"M{x} {y}" if letter == "M" else re.sub(r"(?<!\d)0\.", ".", step.replace(" -", "-"))
        place = there
    return found


def _by_class(svg: str) -> str:
    """Styles of three elements and more go to the picture's own style sheet."""
    if "</style>" not in svg:
        return svg
    n_times = Counter(re.findall(r' style="([^"]*)"', svg))
    names = {style: f"c{k:x}" for k, style in enumerate(style for style, n in n_times.items() if n > 2)}
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    svg = re.sub(
        r' style="([^"]*)"', lambda found: f' class="{names[found[1]]}"' if found[1] in names else found[0], svg
    )
    return svg.replace("</style>", f"{rules}</style>", 1)


def _few_colours(pixels: np.ndarray) -> bytes:
    """PNG of [height, width, 4] bytes, with a palette: a picture of few colours in a third of the bytes."""
    from PIL import Image

    small = io.BytesIO()
    picture = Image.fromarray(pixels).convert("RGB")
    # Median cut, the default, leaves out the colour of a few marks among lines of many shades.
    palette = picture.quantize(PNG_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette.save(small, "png", optimize=True)
    return small.getvalue()


def _settle(figure: Figure) -> None:
    """Lay the axes out once, at places that are rounded: the solver's last digits differ from call to call."""
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    figure.set_layout_engine(None)  # not "none", for which savefig draws the picture twice
    for axes in figure.axes:
        axes.apply_aspect()
        axes.set_position(np.round(axes.get_position().bounds, 6).tolist())
