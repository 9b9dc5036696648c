"""`minibert windows`: the picture of a question's windows, and the counts."""

import json
import shutil

from minibert.evaluation.check import count_windows
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows
from tests.builders import write_toy_squad


def test_show_prints_the_windows_with_the_answer_marked_and_ends_with_the_counts(command, vocab_folder, tmp_path):
    context = "The clock tower in Basel was made of copper by Anna Weiss in 1871."
    answers = [{"text": "copper", "answer_start": context.index("copper")}]
    questions = [{"id": f"q{i}", "question": "What was it made of?", "answers": answers} for i in range(2)]
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": questions}]}]}), "utf-8")
    words = ["--data", data, "--model", vocab_folder, "--max-seq-length", 16, "--doc_stride=4"]
    done = command("windows", *words, "--show", 1)
    examples, tokenizer = read_squad(data), load_tokenizer(vocab_folder)
    counts = count_windows(examples, make_windows(examples, tokenizer, 16, 4), tokenizer)
    assert (done.code, done.err, done.result) == (0, "", counts)
    assert (counts["questions"], counts["exact"], counts["duplicate_questions"]) == (2, 2, 1)
    assert counts["windows"] % 2 == 0
    lines = done.out.splitlines()
    assert sum(line.startswith("question q") for line in lines) == 1
    assert sum(line.startswith("window ") for line in lines) == counts["windows"] // 2 > 1
    marked = [line.split() for line in lines if line.endswith("<-- answer")]
    assert marked and all(words[1:4] == ["copper", "37-43", "'copper'"] for words in marked)
    assert "the label is [CLS]" in done.out  # a window without the answer
    assert command("windows", *words).records == [counts]


def test_a_model_with_fewer_positions_has_the_windows_of_training(command, vocab_folder, tmp_path):
    """Without torch: `check` reads the positions from config.json, or from google's bert_config.json."""
    data, longer = write_toy_squad(tmp_path / "data.json", 3, words=60), ["--max_seq_length", 64]
    for config in ("config.json", "bert_config.json"):
        folder = shutil.copytree(vocab_folder, tmp_path / config.removesuffix(".json"))
        words = ["--data", data, "--model", folder]
        assert command("windows", *words).result["windows"] == 3
        (folder / config).write_text('{"max_position_embeddings": 40}', "utf-8")
        counts = command("windows", *words).result
        assert counts["windows"] > 3 and counts == command("windows", *words, "--max_seq_length", 40).result
        assert command("check", *words, "--json").result["windows"] == counts
        assert command("windows", *words, *longer).result != counts
        command("check", *words, "--doc_stride", 37).assert_refused(
            "--doc_stride: expected less than .* = 37, found 37"
        )


def test_questions_without_marks_and_with_one_id_can_be_looked_at(command, vocab_folder, tmp_path):
    record = {"id": "q", "question": "what?", "answers": []}
    other = {"id": "q", "question": "what?", "answers": [{"text": "clock", "answer_start": 0}]}
    paragraph = {"context": "clock tower", "qas": [record, other]}
    (tmp_path / "data.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}), "utf-8")
    done = command("windows", "--data", tmp_path / "data.json", "--model", vocab_folder)
    assert done.code == 0 and (done.result["unanswered"], done.result["exact"]) == (1, 1)


def test_the_largest_overlap_is_fine(command, vocab_folder, data):
    done = command("windows", "--data", data, "--model", vocab_folder, "--doc_stride", 380)
    assert done.code == 0 and done.result["questions"] == 25


def test_terminal_codes_in_ids_questions_and_contexts_are_shown_and_not_obeyed(command, vocab_folder, tmp_path):
    code = "\x1b[2J\x9b"
    record = {"id": f"q{code}", "question": f"what {code}?", "answers": [{"text": "clock", "answer_start": 0}]}
    paragraph = {"context": f"clock {code} tower", "qas": [record]}
    (tmp_path / "data.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}), "utf-8")
    done = command("windows", "--data", tmp_path / "data.json", "--model", vocab_folder, "--show", 1)
    assert done.code == 0 and "\\x1b[2J" in done.out and not {"\x1b", "\x9b"} & set(done.out)


def test_bad_questions_are_dropped_when_asked(command, vocab_folder, data):
    content = json.loads(data.read_text("utf-8"))
    content["data"][0]["paragraphs"][1]["qas"][0]["answers"][0]["answer_start"] = 999
    data.write_text(json.dumps(content), "utf-8")
    words = ["windows", "--data", data, "--model", vocab_folder]
    command(*words).assert_refused("999")
    done = command(*words, "--skip_bad_records")
    assert done.code == 0 and done.result["questions"] == 24 and "dropped 1 question" in done.err
