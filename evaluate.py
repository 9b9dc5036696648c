"""Score a model on SQuAD-format questions, or score a file of predictions.

    python evaluate.py --ckpt runs/first --data dev-v1.1.json --predictions predictions.json
    python evaluate.py --score predictions.json --data dev-v1.1.json

The last line of stdout is one JSON object of scores, under the official keys. `--score` never loads torch.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path

from minibert.errors import BadInput, run_command
from minibert.flags import Flags, add_answer_flags, add_device_flags, add_window_flags, check_window_flags
from minibert.folders import find_folder
from minibert.metrics import read_predictions, score
from minibert.squad import is_version_2, read_json, read_squad

# What a training noted that its evaluation takes over.
OF_THE_RUN = {"eval_data": (str, type(None)), "max_seq_length": int, "doc_stride": int, "max_query_length": int}


def read_flags() -> Namespace:
    flags = Flags(prog="python evaluate.py", description="Score a model, or a file of predictions, on SQuAD data.")
    flags.add_model("--ckpt")
    flags.add("--data", metavar="FILE", help="SQuAD JSON; default: the --eval_data that the model was trained with")
    flags.add("--predictions", metavar="OUT", help="write {id: answer} here, and nbest_predictions.json beside it")
    flags.add("--score", metavar="PREDICTIONS", help="score this file instead of a model")
    add_window_flags(flags)
    add_answer_flags(flags)
    add_device_flags(flags, dtype="auto")
    args = flags.parse()
    if args.predictions and Path(args.predictions).name in ("nbest_predictions.json", "null_odds.json"):
        raise BadInput("--predictions", args.predictions, "is a name that evaluate.py needs for another file")
    if bool(args.ckpt) == bool(args.score):
        raise BadInput("--ckpt", "", "name either a model (--ckpt) or a file of predictions (--score)")
    if args.ckpt:
        args.ckpt = find_folder(args.ckpt, args.revision)
        # A model that was trained here is scored as it was trained, unless flags say otherwise.
        flags.set_defaults(**settings_of_run(args.ckpt))
        args = Namespace(**vars(flags.parse()) | {"ckpt": args.ckpt})
        args.data = args.data or args.eval_data
    if not args.data:
        raise BadInput("--data", "", "name the SQuAD file to score on")
    check_window_flags(args)
    files = Path(args.predictions or ""), Path(args.data)
    if all(file.is_file() for file in files) and files[0].samefile(files[1]):
        raise BadInput("--predictions", args.predictions, "is the data itself; name another file")
    return args


def settings_of_run(folder: Path) -> dict:
    """What the training noted in the checkpoint; nothing for a published model."""
    file = folder / "trainer_state.json"
    if not file.is_file():
        return {"eval_data": None}
    state = read_json(file)
    saved = state.get("settings") if isinstance(state, dict) else None
    for key, kind in OF_THE_RUN.items():
        if not isinstance(saved, dict) or key not in saved or not isinstance(saved[key], kind):
            raise BadInput(file, f"settings.{key}", "is missing or of the wrong kind")
    return {key: saved[key] for key in OF_THE_RUN}


def main() -> None:
    args = read_flags()
    examples = read_squad(args.data)
    if args.version_2_with_negative and not is_version_2(examples):
        print("--version_2_with_negative: the data is v1.1; every question has an answer", file=sys.stderr)
    if args.score:
        print(json.dumps(score(examples, read_predictions(args.score))))
        return

    # Only now: scoring a file needs no torch.
    from minibert import distributed
    from minibert.answering import evaluate, load_trained, write_predictions
    from minibert.device import choose_machine, keep_memory, prepare_to_answer
    from minibert.windows import make_windows

    with distributed.ranks():
        model, tokenizer = load_trained(args.ckpt)
        check_window_flags(args, model.config.max_position_embeddings)
        machine = choose_machine(args.device, args.dtype)
        keep_memory()
        windows = make_windows(examples, tokenizer, args.max_seq_length, args.doc_stride, args.max_query_length)
        scores, predictions = evaluate(prepare_to_answer(model, machine), examples, windows, machine, args)
        if distributed.is_main():
            if args.predictions:
                is_v2, threshold = is_version_2(examples), args.null_score_diff_threshold
                write_predictions(Path(args.predictions), examples, predictions, is_v2, threshold)
            if not scores:
                print(f"{args.data} has no answers: there is nothing to score", file=sys.stderr)
            print(json.dumps(scores or {"total": len(examples)}))


if __name__ == "__main__":
    run_command(main)
