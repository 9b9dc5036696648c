"""Upload a trained model to the Hugging Face hub: what the model needs and its card, and nothing else.

    minibert publish --ckpt runs/first --name ACCOUNT/MODEL --dry_run

Neither the optimizer's state nor a path of this machine leaves it.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from minibert.answers.confidence import ANSWERING_FILE, read_answering
from minibert.commands import flags
from minibert.support.errors import BadInput
from minibert.support.files import read_json
from minibert.support.hashes import MANIFEST, manifest_files
from minibert.support.hub import find_folder, is_hub_id
from minibert.support.streams import printable
from minibert.support.transfer import upload
from minibert.support.writing import write_atomically, write_json
from minibert.text.tokenizer_files import TOKENIZER_FILES
from minibert.training.card import card
from minibert.training.settings import option

# What a model folder must have to be opened, and what it may have besides. The card is made from the run's notes.
NEEDED = ("config.json", "model.safetensors")
NOTES = "trainer_state.json"
OPTIONAL = (*TOKENIZER_FILES, ANSWERING_FILE)


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """Upload a trained model to the Hugging Face hub."""

    ckpt: str | None = option(None, "the run, or one of its checkpoints", metavar="DIR")
    name: str | None = option(None, "the model's name on the hub", metavar="ACCOUNT/MODEL")
    license: str | None = option(
        None, "the licence to state, such as mit; the default model's is apache-2.0", metavar="ID"
    )
    private: bool = option(False, "create the repository as a private one")
    dry_run: bool = option(False, "print what would be uploaded, and upload nothing")


def main(words: Sequence[str] | None = None) -> None:
    options = flags.read(PublishOptions, "publish", words)
    if options.ckpt is None:
        raise BadInput("--ckpt", "", "name the run to publish")
    if options.name is None or "/" not in options.name or not is_hub_id(options.name):
        raise BadInput("--name", "", f"expected ACCOUNT/MODEL, found {options.name!r}")
    checkpoint = find_folder(options.ckpt)
    if not {*NEEDED, NOTES} <= manifest_files(checkpoint).keys() or not (checkpoint / NOTES).is_file():
        what = f"is not of a run: its {MANIFEST} or {NOTES} is missing, or not complete"
        raise BadInput(checkpoint, "", f"{what}; publish another checkpoint")
    with tempfile.TemporaryDirectory(prefix="minibert-publish-") as scratch:
        folder = Path(scratch)
        for line in collect(checkpoint, folder, options.name, options.license):
            print(printable(line))
        if options.dry_run:
            print(printable(f"\n{(folder / 'README.md').read_text('utf-8')}"))
            print("nothing was uploaded; without --dry_run these files go to the hub")
        else:
            print(upload(folder, options.name, options.private))


def collect(checkpoint: Path, folder: Path, name: str, licence: str | None) -> list[str]:
    """Copy what the model needs into an empty folder; return a line for each file.

    Whoever made the checkpoint could have put a link there that leads to a private file of this machine.
    """
    read_answering(checkpoint)
    for file in (*NEEDED, *OPTIONAL):
        if (checkpoint / file).is_symlink():
            raise BadInput(checkpoint / file, "", "is a link, and what it leads to would be published; remove it")
        if (checkpoint / file).is_file():
            shutil.copyfile(checkpoint / file, folder / file)
        elif file in NEEDED:
            raise BadInput(checkpoint / file, "", "file not found")
    write_atomically(folder / "README.md", card(checkpoint, name, licence=licence))
    removed = [f"left out {file.name}: {key}" for file in folder.glob("*config.json") for key in remove_paths(file)]
    return [f"{file.stat().st_size:>12,} {file.name}" for file in sorted(folder.iterdir())] + removed


def remove_paths(file: Path) -> list[str]:
    """Drop the entries of a JSON object that are paths of this machine, as other trainers save them; their names."""
    content = read_json(file)
    keys = [key for key, value in content.items() if is_local_path(value)] if isinstance(content, dict) else []
    if keys:
        write_json(file, {key: value for key, value in content.items() if key not in keys})
    return keys


def is_local_path(value: Any) -> bool:
    """Whether a value is an absolute path, or starts from the home or the current folder, or is a list with one."""
    if isinstance(value, list):
        return any(map(is_local_path, value))
    if not isinstance(value, str):
        return False
    is_absolute = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    return is_absolute or value.startswith(("~", "./", "../", ".\\", "..\\"))
