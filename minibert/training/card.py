"""The README.md of a run: what each file is, what to do with it, and the model card that the hub reads.

In: a checkpoint's settings, facts and scores. Out: Markdown with a YAML head. Only file names are written, never the
folders that they lie in.
"""

import json
import os
from pathlib import Path

from minibert.answers.confidence import ANSWERING_FILE
from minibert.support.errors import BadInput
from minibert.support.hub import DEFAULT_MODEL, MINILM_HUB_ID, is_path
from minibert.support.run_files import read_pointer
from minibert.support.streams import tell
from minibert.support.writing import write_atomically
from minibert.training.run_folder import best_checkpoint, read_scores, read_state
from minibert.training.settings import Settings, from_json

MARK = "<!-- written by minibert; a run replaces this file as long as this line is in it -->"
# Settings that name files of one machine, or do not change what is trained.
LEFT_OUT = {"data", "eval_data", "model", "revision", "output_dir", "overwrite", "resume", "device", "format"}
FILES = """## Files

| file | what it is |
|---|---|
| `checkpoint-N/` | the model after N steps: a complete model folder, with the state that `--resume` needs |
| `best`, `latest` | one line each: the name of the checkpoint with the highest F1, and of the newest |
| `metrics.jsonl` | losses and scores, one JSON object per line |
| `.lock` | held by the process that trains here |"""

COMMANDS = """## What to do with it

```
minibert ask --ckpt . --question '..' --context '..'     ask it
minibert evaluate --ckpt . --data FILE                   score it
minibert train --resume .                                continue, if it was stopped
minibert train --model . --data FILE --output_dir OTHER  train on, with other data
minibert publish --ckpt . --name ACCOUNT/MODEL --dry_run what publishing would upload
```"""

USE = """## Use

`minibert ask --ckpt NAME --question '..' --context '..'`, or from Python:

```python
import minibert

qa = minibert.pipeline("question-answering", model="NAME")
qa(question="..", context="..")  # {"score": .., "start": .., "end": .., "answer": ".."}
```"""


def write_card(run: Path) -> None:
    """Write README.md in a run's folder, unless a README.md that is not ours is there, or no checkpoint yet.

    Where the checkpoint lacks something that the card needs, a warning is printed and no card is written.
    """
    file = run / "README.md"
    if os.path.lexists(file) and not (file.is_file() and MARK in file.read_text("utf-8", errors="replace")):
        return
    checkpoint = best_checkpoint(run) or run / (read_pointer(run / "latest") or "none")
    if not checkpoint.is_dir():  # a run that was resumed from another folder evaluates before it saves
        return
    try:
        text = card(checkpoint, run.resolve().name, is_run=True)
    except BadInput as error:
        tell(f"warning: {file} is not written: {error}")
        return
    write_atomically(file, text)


def card(checkpoint: Path, name: str, is_run: bool = False, licence: str | None = None) -> str:
    """The card of a checkpoint. name: of the run, or ACCOUNT/MODEL; is_run: describe the folder and how to go on."""
    title = name.rpartition("/")[2]
    file = checkpoint / "trainer_state.json"
    state = read_state(checkpoint, "settings")
    settings, scores = from_json(state["settings"], file), read_scores(checkpoint)
    hashes = state["facts"].get("data_sha256", []) if isinstance(state["facts"], dict) else None
    if not isinstance(hashes, list) or not all(isinstance(one, str) for one in hashes):
        raise BadInput(file, "facts", "expected an object with a list of strings as data_sha256")
    base = state["facts"].get("base_model", base_model(str(settings.model)))  # an older run has not noted it
    commit = state["facts"].get("commit", "")
    if not isinstance(base, str) or not isinstance(commit, str):
        raise BadInput(file, "facts", f"expected strings as base_model and commit, found {base!r} and {commit!r}")
    base_text = f"`{base}`" + (f" (commit {commit})" if commit else "")
    parts = [head(title, settings, base, scores, licence), MARK, f"# {title}", introduction(settings, base_text)]
    if state["facts"].get("is_average") is True:
        parts.append("Its weights are the mean of several runs, of which the first had the recipe below.")
    parts += [FILES, COMMANDS] if is_run else [USE.replace("NAME", name)]
    parts.append(data_table(settings, hashes))
    if scores:
        parts.append(score_table(settings, scores))
    answering = checkpoint / ANSWERING_FILE
    if answering.is_file():
        fitted = answering.read_text("utf-8", errors="replace").strip()
        parts.append(f"## Calibration\n\n```json\n{fitted}\n```")
    recipe = {key: value for key, value in settings.to_json().items() if key not in LEFT_OUT and value is not None}
    parts.append(f"## Recipe\n\n```json\n{json.dumps(recipe, indent=1)}\n```")
    return "\n\n".join(parts) + "\n"


def base_model(name: str) -> str:
    """What a card calls the model that was trained on: its hub id; of a folder that is here now only its name."""
    if name == DEFAULT_MODEL:
        return MINILM_HUB_ID
    is_local = is_path(name) or Path(name).is_dir()
    return Path(name).name if is_local else name


def head(name: str, settings: Settings, base: str, scores: dict[str, float], licence: str | None) -> str:
    """The YAML that the hub reads. A JSON string is a YAML string too, so that any name is safe."""
    is_default = str(settings.model) == DEFAULT_MODEL
    lines = ["---"]
    if licence or is_default:
        lines.append(f"license: {json.dumps(licence or 'apache-2.0')}")
    lines += ["pipeline_tag: question-answering", "tags:", "- minibert", "- bert"]
    if is_default or "/" in base:
        lines.append(f"base_model: {json.dumps(base)}")
    metrics = {key: scores[key] for key in ("exact_match", "exact", "f1") if key in scores}
    if metrics and settings.eval_data:
        dataset = json.dumps(Path(settings.eval_data).stem)
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
        lines += ["  - task:", "      type: question-answering", "    dataset:"]
        lines += [f"      name: {dataset}", f"      type: {dataset}", "    metrics:"]
        for key, value in metrics.items():
            lines += [f"    - type: {'exact_match' if key == 'exact' else key}", f"      value: {value:.4f}"]
    return "\n".join([*lines, "---"])


def introduction(settings: Settings, base: str) -> str:
    files = ", ".join(f"`{Path(file).name}`" for file in settings.files)
    return (
        f"Extractive question answering: {base}, fine-tuned with minibert on {files}. The model "
        "finds the span of a given text that answers a question; it writes no text of its own."
    )


def data_table(settings: Settings, hashes: list[str]) -> str:
    rows = [f"| `{Path(file).name}` | `{digest}` |" for file, digest in zip(settings.files, hashes)]
    return "\n".join(["## Data", "", "| training file | sha256 |", "|---|---|", *rows])


def score_table(settings: Settings, scores: dict[str, float]) -> str:
    where = f" on `{Path(settings.eval_data).name}`" if settings.eval_data else ""
    rows = [f"| {key} | {value:.2f} |" for key, value in scores.items()]
    return "\n".join([f"## Scores{where}", "", "| score | value |", "|---|---:|", *rows])
