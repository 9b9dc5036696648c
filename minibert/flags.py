"""What the commands share about their flags: spelling, checks, and the groups that several of them have.

Flags have underscores; hyphens are the same option; abbreviations are refused, so a typo cannot pass for a flag.
Names and defaults are those of the field's run_squad and run_qa scripts. Next: `folders.py`.
"""

import argparse
import math
import sys

from minibert.errors import BadInput


class Flags(argparse.ArgumentParser):
    """An ArgumentParser with those manners; `add` is its `add_argument` with the default shown in the help."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def add(self, name: str, *, help: str, **options) -> None:
        default = options.get("default")
        shown = f" (default: {default})" if default is not None else ""
        self.add_argument(name, help=help.replace("%", "%%") + shown, **options)

    def parse(self, words: list[str] | None = None) -> argparse.Namespace:
        """Parse sys.argv[1:] (or `words`), `--batch-size 8` and `--batch-size=8` read as `--batch_size`."""
        words = sys.argv[1:] if words is None else words
        spelled = []
        for word in words:
            name, equals, value = word.partition("=")
            spelled.append(name.replace("-", "_").replace("__", "--", 1) + equals + value if word[:2] == "--" else word)
        return self.parse_args(spelled)

    def add_model(self, name: str, **options) -> None:
        what = "a model folder, a run folder, a name in weights/, or a model on the Hugging Face hub"
        self.add(name, metavar="NAME_OR_DIR", help=what, **options)
        self.add("--revision", metavar="REV", help="branch, tag or commit of a model on the hub")

    @staticmethod
    def whole(least: int):
        """An argparse type: a whole number from `least` to 2**31 - 1."""

        def whole_number(text: str) -> int:
            value = int(text)
            if not least <= value < 2**31:
                raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {2**31 - 1}, not {value}")
            return value

        return whole_number

    @staticmethod
    def real(least: float, most: float = math.inf):
        """An argparse type: a finite number from `least` to `most`."""

        def number(text: str) -> float:
            value = float(text)
            if not (math.isfinite(value) and least <= value <= most):
                raise argparse.ArgumentTypeError(f"must be a number from {least} to {most}, not {text}")
            return value

        return number


def add_window_flags(flags: Flags) -> None:
    whole = flags.whole
    flags.add("--max_seq_length", type=whole(8), default=384, help="tokens in a window, special ones included")
    flags.add(
        "--doc_stride",
        type=whole(0),
        default=128,
        help="tokens that neighbouring windows share: the overlap, as in run_qa (google's run_squad meant the step)",
    )
    flags.add("--max_query_length", type=whole(1), default=64, help="a question is cut to this many tokens")


def check_window_flags(args: argparse.Namespace, max_position_embeddings: int | None = None) -> None:
    """Refuse windows that cannot advance or that the model has no positions for."""
    if args.doc_stride >= args.max_seq_length - 3:
        raise BadInput("--doc_stride", "", f"must be less than max_seq_length - 3 = {args.max_seq_length - 3}")
    if max_position_embeddings and args.max_seq_length > max_position_embeddings:
        what = f"{args.max_seq_length} is more than the model's {max_position_embeddings} positions"
        raise BadInput("--max_seq_length", "", what)


def add_answer_flags(flags: Flags) -> None:
    whole = flags.whole
    flags.add("--n_best_size", type=whole(1), default=20, help="answers kept for each question")
    flags.add("--max_answer_length", type=whole(1), default=30, help="longest answer, in tokens")
    flags.add(
        "--version_2_with_negative",
        action="store_true",
        help="confirm that some questions have no answer; v2.0 files are recognised without it",
    )
    flags.add(
        "--null_score_diff_threshold",
        type=flags.real(-math.inf),
        default=0.0,
        help='predict "" when the null score exceeds the best answer\'s by more than this (v2.0)',
    )
    flags.add("--eval_batch_size", type=whole(1), default=64, help="windows in a batch of prediction")


def add_device_flags(flags: Flags, dtype: str) -> None:
    flags.add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda, else cpu")
    flags.add(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default=dtype,
        help="precision of the matrix products; auto: the best that the hardware has",
    )
