"""Compare the files of a model or a run with what they must be, and say who says so.

    minibert verify NAME_OR_DIR

In: a folder, or the name of a model that is on this machine; nothing is downloaded. Out: one line per file and a last
line. Exit code 1 if a file is damaged or missing, or if nothing is known of any file.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minibert.commands import flags
from minibert.support.errors import BadInput
from minibert.support.hashes import MANIFEST, MINILM_FILES, Known, known_files, mismatch
from minibert.support.hub import DEFAULT_MODEL, MINILM_HUB_ID, find_cached, inside_run, model_homes
from minibert.support.run_files import read_pointer
from minibert.support.streams import counted, printable
from minibert.training.settings import NAME_OR_DIR, REVISION, option


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Compare the files of a model or a run with their known hashes."""

    model: str = option(DEFAULT_MODEL, f"{NAME_OR_DIR}; may stand without the flag's name", metavar="NAME_OR_DIR")
    revision: str | None = option(None, REVISION, metavar="REV")


def main(words: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if words is None else words)
    if words and not words[0].startswith("-"):
        words = ["--model", *words]
    options = flags.read(VerifyOptions, "verify", words)
    folder = find_cached(options.model, options.revision)
    counts: Counter[str] = Counter()
    for model in inside_run(folder):
        print(printable(f"{model}{is_named(model)}", kept=""))
        for name, verdict, remark in verdicts(model, pinned(options.model, model)):
            counts[verdict] += 1
            print(printable(f"  {verdict:<8} {name}  {remark}", kept=""))
    bad, total = counts["DAMAGED"] + counts["MISSING"], sum(counts.values())
    print(
        f"{counted(total, 'file')}: {counts['ok']} as expected, {bad} damaged or missing, "
        f"{counts['unknown']} of unknown hash"
    )
    if bad or not counts["ok"]:
        sys.exit(1)


def pinned(name: str, folder: Path) -> dict[str, Known]:
    """The hashes in our own code, if this is the default model."""
    places = [home / DEFAULT_MODEL for home in model_homes()]
    is_minilm = name in (DEFAULT_MODEL, MINILM_HUB_ID) or any(place.resolve() == folder.resolve() for place in places)
    return MINILM_FILES if is_minilm else {}


def verdicts(folder: Path, pinned: dict[str, Known]) -> Iterator[tuple[str, str, str]]:
    """(file, verdict, remark) for every file of a folder and every file that it should have."""
    try:
        known = known_files(folder)
    except BadInput as error:
        known = {}
        yield MANIFEST, "DAMAGED", str(error)
    # Of the default model, any copy serves, with or without its card.
    known |= {name: file for name, file in pinned.items() if name != "README.md" or (folder / name).is_file()}
    for name in sorted({*known, *(path.name for path in folder.iterdir() if path.is_file())}):
        if name not in known:
            yield name, "unknown", "not listed" if known else "no hash known"
        elif found := mismatch(folder / name, known[name]):
            yield name, "MISSING" if found == "is missing" else "DAMAGED", found.removeprefix("is damaged: ")
        else:
            yield name, "ok", f"{(folder / name).stat().st_size} bytes, as {known[name].source} says"


def is_named(checkpoint: Path) -> str:
    """Which of a run's pointers name this checkpoint."""
    names = [name for name in ("best", "latest") if read_pointer(checkpoint.parent / name) == checkpoint.name]
    return f" ({' and '.join(names)})" if names else ""
