"""Fine-tune BERT on SQuAD-format questions.

    python train.py --data train-v1.1.json --model bert-base-uncased --eval_data dev-v1.1.json

Flags -> `training/run.py`. The last line of stdout is one JSON object.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from minibert.commands import flags
from minibert.training.progress import say
from minibert.training.run import Run, train
from minibert.training.settings import Settings


def main(words: Sequence[str] | None = None) -> None:
    given = flags.parse(Settings, "train", words)
    flags.make(Settings, given)  # `train` makes them too, but its errors name parameters, not flags
    run = train(**given)
    say_what_next(run)
    say(json.dumps(run.summary))


def say_what_next(run: Run) -> None:
    """How to use the trained model."""
    say(f"\nthe trained model is in {run.folder}; ask it something:")
    say(
        f"  python ask.py --ckpt {shlex.quote(str(run.folder))} --question 'When was the town clock made?' "
        "--context 'The town clock was made in Basel in 1871 by the smith Anna Weiss.'"
    )
    if [Path(file).parent.name for file in run.settings.files] == ["examples"]:
        say("a few hundred questions show how it works, not how well; the real recipe is:")
        say("  python train.py --data train-v1.1.json --eval_data dev-v1.1.json --model bert-base-uncased")
