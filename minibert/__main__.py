"""The command `minibert`, also `python -m minibert`: starts one of the commands by its name."""

import sys
from importlib import import_module

from minibert import __version__
from minibert.support.exits import run_command

COMMANDS = {
    "train": "fine-tune BERT on SQuAD-format questions",
    "evaluate": "score a model, or a file of predictions",
    "calibrate": "fit the null threshold and the confidence of a model",
    "average": "average the weights of several runs: usually better answers, at the speed of one",
    "compare": "compare two systems on the same questions",
    "ask": "ask a trained model",
    "serve": "try a model in a browser on this machine",
    "publish": "upload a trained model to the hub",
    "check": "find and repair the faults of a data file, or convert it to SQuAD",
    "verify": "compare a model's files with their known hashes",
    "windows": "show how a SQuAD file is cut into windows",
    "lesson": "follow one question through the model, step by step",
}
USAGE = "usage: minibert COMMAND [--help] ...\n\n" + "\n".join(f"  {name:<10} {COMMANDS[name]}" for name in COMMANDS)


def run(command: str, words: list[str] | None = None) -> None:
    """Run a command and end the process with its exit code. words: its command line; None means the process's own."""
    # Imported inside, because `import torch` takes a second in which Ctrl-C must end the process without a traceback.
    run_command(lambda: import_module(f"minibert.commands.{command}").main(words))


def main() -> None:
    name, *words = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        run(name, words)
    else:
        run_command(lambda: about(name))


def about(name: str) -> None:
    """Print the version or the commands; end with code 2 if the name is none of a command."""
    if name in ("-h", "--help"):
        print(USAGE)
    elif name == "--version":
        print(__version__)
    else:
        print(f"{USAGE}\n\nerror: expected a command, found {name!r}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
