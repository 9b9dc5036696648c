"""Fine-tune BERT on SQuAD-format questions.

    python train.py --data train-v1.1.json --model bert-base-uncased --eval_data dev-v1.1.json

Flags -> examples, windows, model -> `minibert.training`. The last line of stdout is one JSON object.
"""

import contextlib
import json
import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import torch

from minibert import distributed
from minibert.answering import check_pair
from minibert.checkpoint import LOCK, checkpoints, clear, clear_after, find_checkpoint, fingerprint, load_state, locked
from minibert.device import choose_machine, keep_memory
from minibert.errors import BadInput, run_command
from minibert.flags import Flags, add_answer_flags, add_device_flags, add_window_flags, check_window_flags
from minibert.folders import DEFAULT_MODEL, find_folder
from minibert.journal import say
from minibert.squad import read_squad
from minibert.tokenizer import load_tokenizer
from minibert.training import Training
from minibert.weights import load_with_report
from minibert.windows import make_windows

# What a resumed run may change: anything else would make it another run.
FREE_TO_CHANGE = {
    "resume",
    "overwrite",
    "data",
    "output_dir",
    "eval_data",
    "save_steps",
    "keep_last",
    "eval_batch_size",
    "device",
}


def make_flags() -> Flags:
    flags = Flags(prog="python train.py", description="Fine-tune BERT on SQuAD-format questions.")
    whole, real = flags.whole, flags.real
    flags.add("--data", required=True, nargs="+", metavar="FILE", help="SQuAD JSON to train on, v1.1 or v2.0")
    flags.add("--eval_data", metavar="FILE", help="SQuAD JSON to score after each epoch")
    flags.add_model("--model", default=DEFAULT_MODEL)
    flags.add("--output_dir", metavar="DIR", help="where checkpoints go; default runs/<data>-<model>")
    flags.add("--overwrite", action="store_true", help="remove what an earlier run left in output_dir")
    flags.add("--resume", nargs="?", const=True, metavar="DIR", help="continue the run in output_dir, or a checkpoint")
    flags.add("--epochs", type=whole(1), default=2, help="times through the data")
    flags.add("--batch_size", type=whole(1), default=16, help="windows in a micro-batch, per process")
    flags.add("--gradient_accumulation_steps", type=whole(1), default=1, help="micro-batches in a step, per process")
    flags.add("--learning_rate", type=real(0), help="peak; default 3e-5 for hidden_size >= 768, 1e-4 below")
    flags.add("--warmup_ratio", type=real(0, 1), default=0.1, help="share of the steps that warm up")
    flags.add("--weight_decay", type=real(0), default=0.01, help="of the matrices")
    flags.add("--max_grad_norm", type=real(0), default=1.0, help="clip the gradient to this norm")
    flags.add("--seed", type=whole(0), default=42, help="decides data order, dropout and the new head")
    flags.add("--max_steps", type=whole(1), help="stop after so many steps, whatever --epochs says")
    flags.add("--max_questions", type=whole(1), help="train on the first N questions only")
    flags.add("--save_steps", type=whole(1), help="also save after every N steps")
    flags.add("--keep_last", type=whole(2), default=2, help="newest checkpoints to keep, besides the best")
    add_window_flags(flags)
    add_answer_flags(flags)
    flags.add("--skip_bad_records", action="store_true", help="drop questions with faults instead of stopping")
    flags.add("--deterministic", action="store_true", help="the same run twice on one machine, to the bit, on CUDA too")
    flags.add("--compile", action="store_true", help="compile the model first: a minute, for long runs on CUDA")
    add_device_flags(flags, dtype="auto")
    return flags


def find_resumed(args: Namespace, run: Path) -> Path | None:
    """The checkpoint to resume from, if any."""
    if not args.resume:
        return None
    if args.overwrite:
        raise BadInput("--overwrite", "", "removes what --resume continues; give one of them")
    return find_checkpoint(run if args.resume is True else Path(args.resume))


def check_output(run: Path, checkpoint: Path | None, overwrite: bool) -> None:
    """BadInput if the output folder is none, or holds the work of a run that this one does not continue."""
    if run.exists() and not run.is_dir():
        raise BadInput(run, "", "is a file; name a folder with --output_dir")
    is_continued = checkpoint is not None and checkpoint.parent.resolve() == run.resolve()
    if run.is_dir() and any(path.name != LOCK for path in run.iterdir()) and not (overwrite or is_continued):
        what = "is not empty; --resume continues the run there, --overwrite removes it; or name another --output_dir"
        raise BadInput(run, "", what)


def load_settings(checkpoint: Path, flags: Flags, names: Iterable[str]) -> dict:
    """The settings of a run's first start under these names, each of its flag's kind; none is ever guessed."""
    file = checkpoint / "trainer_state.json"
    saved = load_state(checkpoint, ("settings",))["settings"]
    for name in names:
        default = 1e-4 if name == "learning_rate" else flags.get_default(name)  # a run that has begun has one
        if not isinstance(saved, dict) or name not in saved:
            raise BadInput(file, f"settings.{name}", "is missing")
        kinds = (str, int, float, type(None)) if default is None else (type(default),)  # its flag parses a str
        if type(saved[name]) not in kinds:
            raise BadInput(file, f"settings.{name}", f"must be like {default!r}, not {saved[name]!r}")
    return {name: value for name, value in saved.items() if name not in ("resume", "overwrite")}


def read_settings() -> tuple[Namespace, Path | None]:
    """The resolved settings of the run, and the checkpoint that it resumes from.

    A resumed run has the settings of its first start; BadInput names a flag that would make it another run.
    """
    flags = make_flags()
    args = flags.parse()
    default = f"runs/{Path(args.data[0]).stem}-{Path(args.model).name}"
    checkpoint = find_resumed(args, Path(args.output_dir or default))
    if checkpoint:
        given_anew = {"data", "resume", "overwrite"}
        saved = load_settings(checkpoint, flags, vars(args).keys() - given_anew)
        flags.set_defaults(**{name: saved[name] for name in saved if name in args})
        args = flags.parse()
    args.output_dir = args.output_dir or default
    check_output(Path(args.output_dir), checkpoint, args.overwrite)
    check_window_flags(args)
    for file in args.data:
        if not os.path.isfile(file) or not os.access(file, os.R_OK):
            raise BadInput(file, "", "cannot be read")
    args.data_sha256 = [fingerprint(Path(file))["sha256"] for file in args.data]
    args.world_size = distributed.world_size()
    for name in set(saved) - FREE_TO_CHANGE if checkpoint else ():
        if getattr(args, name, None) != saved[name]:
            what = f"is {getattr(args, name, None)}, but the run in {checkpoint} has {saved[name]}"
            raise BadInput(f"--{name.removesuffix('_sha256')}", "", f"{what}; --resume needs the same")
    return args, checkpoint


def main() -> None:
    with distributed.ranks():
        args, checkpoint = read_settings()
        examples = read_squad(args.data, True, args.skip_bad_records)[: args.max_questions]
        eval_examples = read_squad(args.eval_data, False, args.skip_bad_records) if args.eval_data else []
        if eval_examples and not any(example.answers or example.is_impossible for example in eval_examples):
            raise BadInput(args.eval_data, "answers", "the file has none to score against")
        machine = choose_machine(args.device, args.dtype, args.deterministic)
        keep_memory()
        args.dtype = str(machine.dtype).removeprefix("torch.")

        with distributed.main_first():
            folder = checkpoint or find_folder(args.model, args.revision)
        torch.manual_seed(args.seed)  # draws the new span head
        model, report = load_with_report(folder)
        tokenizer = load_tokenizer(folder)
        check_pair(model, tokenizer, folder)
        check_window_flags(args, model.config.max_position_embeddings)
        if args.learning_rate is None:
            args.learning_rate = 3e-5 if model.config.hidden_size >= 768 else 1e-4

        window_sizes = args.max_seq_length, args.doc_stride, args.max_query_length
        windows = make_windows(examples, tokenizer, *window_sizes)
        too_long = windows.end_positions - windows.start_positions >= args.max_answer_length  # none could predict them
        windows.counts["too_long"] = int(too_long.sum())
        eval_set = (eval_examples, make_windows(eval_examples, tokenizer, *window_sizes)) if eval_examples else None
        run = Path(args.output_dir)
        run.mkdir(parents=True, exist_ok=True)
        with locked(run) if distributed.is_main() else contextlib.nullcontext():
            if args.overwrite and distributed.is_main():
                clear(run, *(old.name for old in checkpoints(run)), "best", "latest", "metrics.jsonl")
            if checkpoint and checkpoint.parent.resolve() == run.resolve() and distributed.is_main():
                clear_after(checkpoint, args.keep_last)
            training = Training(model, tokenizer, (examples, windows), args, machine, eval_set)
            if checkpoint:
                training.resume(checkpoint)
            say(f"{args.model}: {report}")
            say(f"data: {json.dumps(windows.counts)}")
            say(
                f"{training.total_steps} steps of {training.plan.micro_batches_per_step} x {args.batch_size} windows, "
                f"learning rate {args.learning_rate:g}, on {machine} ({torch.get_num_threads()} threads), into {run}"
            )
            summary = training.train()
        say_what_next(args)
        say(json.dumps(summary))


def say_what_next(args: Namespace) -> None:
    say(f"\nthe trained model is in {args.output_dir}; ask it something:")
    say(
        f"  python ask.py --ckpt {args.output_dir} --question 'When was the town clock made?' "
        "--context 'The town clock was made in Basel in 1871 by the smith Anna Weiss.'"
    )
    if len(args.data_sha256) == 1 and Path(args.data[0]).parent.name == "examples":
        say("a few hundred questions show how it works, not how well; the real recipe is:")
        say("  python train.py --data train-v1.1.json --eval_data dev-v1.1.json --model bert-base-uncased")


if __name__ == "__main__":
    run_command(main)
