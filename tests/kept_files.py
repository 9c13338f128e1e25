"""What tests ask of a folder of results: what is in it, and whether it tells where it was made."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def paths_of_a_machine(folder):
    """What looks like a path from the root in the text files of a folder, and where this checkout or home is."""
    found = []
    for path in folder.rglob("*"):
        if path.suffix not in (".json", ".html", ".csv", ".svg"):
            continue
        text = path.read_text(encoding="utf-8")
        named = [str(CHECKOUT), str(Path.home()) + "/", "file:"]
        rooted = re.findall(
            r'(?:^|[\s"\'=(,;])(/(?:home|root|tmp|Users|mnt|srv|var|opt|usr|private|data)/[^\s"<]*)', text
        )
        found += [(path.name, what) for what in (*rooted, *(name for name in named if name in text))]
        if path.suffix == ".json":
            found += [(path.name, what) for what in re.findall(r'"((?:/|~|[A-Z]:\\\\)[^"]*)"', text)]
    return found
