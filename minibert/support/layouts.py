"""Folders as other programs leave them: where the model lies in one, and what to do where its weights are pickled.

In: a folder. Out: the model's folder inside it, its number of positions, or the words of an error.
"""

import os
import shlex
from pathlib import Path

from minibert.support.errors import BadInput
from minibert.support.files import read_json

CONFIG_FILES = ("config.json", "bert_config.json")  # the second is google's name
ENCODER_TYPES = (".Transformer", ".BERT", ".DistilBERT")  # in modules.json; the last two are of its first versions
PICKLED_WEIGHTS = "pytorch_model*.bin"  # refused later, by name
NEVER_OPENED = "never opened, because unpickling runs code"


def is_model(folder: Path) -> bool:
    """Whether a folder has a config and weights of its own. Such a folder is itself, whatever else lies in it."""
    has_config = any((folder / name).is_file() for name in CONFIG_FILES)
    return has_config and any(any(folder.glob(pattern)) for pattern in ("*.safetensors", PICKLED_WEIGHTS))


def transformer_module(folder: Path) -> Path | None:
    """The encoder's folder in a model of sentence-transformers, by its modules.json; None if that names no folder.

    The other modules (pooling, normalisation) are of no use here. BadInput if the encoder's folder is not there.
    """
    file = folder / "modules.json"
    modules = read_json(file) if file.is_file() else None
    for module in modules if isinstance(modules, list) else []:
        if isinstance(module, dict) and str(module.get("type")).endswith(ENCODER_TYPES) and module.get("path"):
            name = module["path"]
            # Only a plain name in this folder: a path could lead out of it.
            if name in os.listdir(folder) and (folder / name).is_dir():
                return folder / name
            what = f"expected a folder beside this file, found {name!r}; download the whole repository"
            raise BadInput(file, "path", what)
    return None


def positions(folder: Path) -> int | None:
    """The positions of a folder's model as its config states them, unchecked; None if it does not."""
    file = next((folder / name for name in CONFIG_FILES if (folder / name).is_file()), None)
    content = read_json(file) if file else None
    found = content.get("max_position_embeddings") if isinstance(content, dict) else None
    return found if type(found) is int else None


def conversion(folder: str | Path) -> str:
    """The command that writes model.safetensors beside the pickled weights of a folder. We never run it."""
    shards = f"sorted(folder.glob('{PICKLED_WEIGHTS}'))"
    read = f"torch.load(f, map_location='cpu', weights_only=True) for f in {shards}"
    state = f"{{k: v.clone().contiguous() for s in ({read}) for k, v in s.items()}}"
    save = f"safetensors.torch.save_file({state}, folder / 'model.safetensors', {{'format': 'pt'}})"
    program = f"import pathlib, sys, torch, safetensors.torch; folder = pathlib.Path(sys.argv[1]); {save}"
    return f'python -c "{program}" {shlex.quote(Path(folder).as_posix())}'
