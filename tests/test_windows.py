"""windows.py: every token of a context is in a window, every label is the answer, and counts equal published ones."""

import json
import random
import shutil
from itertools import pairwise

import numpy as np
import pytest
from conftest import VOCABULARY, run
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.folders import WEIGHTS
from minibert.squad import Example, Gold, read_squad
from minibert.tokenizer import load_tokenizer
from minibert.windows import make_windows

WORDS = "the clock tower of basel cafes un-able 1871 (iron) Kings' zzz \u00e9t\u00e9 \u4e00\u4e8c, . \U0001f600".split()


def example(context: str, answer: str | None = None, question: str = "who made it ?", at: int = 0) -> Example:
    """An example whose answer is the first occurrence from character `at` on."""
    golds = () if answer is None else (Gold(answer, context.index(answer, at)),)
    return Example("q", "", question, context, golds)


def label_text(windows, i: int, examples) -> str | None:
    """The text that a window's label stands for, or None where it points at [CLS]."""
    window = windows[i]
    if (window.start_position, window.end_position) == (0, 0):
        return None
    start, end = window.offsets[window.start_position, 0], window.offsets[window.end_position, 1]
    return examples[window.example].context[start:end]


def context_tokens(windows, i: int) -> range:
    """The context tokens that window i holds."""
    first = int(windows.first_token[i])
    return range(first, first + int(windows.lengths[i] - windows.context_start[i] - 1))


def drawn_examples(draw: random.Random, count: int, longest: int) -> list[Example]:
    """Word texts of 0 to `longest` words, several of them used twice, answers that begin and end at words."""
    examples = []
    for i in range(count):
        if examples and draw.random() < 0.3:
            context = examples[-1].context
        else:
            words = (draw.choice(WORDS) + draw.choice((" ", " ", "  ", "\n")) for _ in range(draw.randint(0, longest)))
            context = "".join(words)
        question = draw.choice((" ", "")) + " ".join(draw.choices(WORDS, k=draw.randint(1, 9))) + " "
        golds = ()
        words = context.split()
        if words and draw.random() < 0.8:
            first = draw.randrange(len(words))
            start = end = 0
            for number, word in enumerate(words[: first + draw.randint(1, 4)]):
                at = context.index(word, end)
                start, end = (at if number == first else start), at + len(word)
            golds = (Gold(context[start:end], start),)
        examples.append(Example(f"q{i}", "", question, context, golds))
    return examples


# --- the layout


def test_the_windows_of_the_picture_in_the_docstring(tokenizer):
    examples = [example("a b c d e f g h i", "g h", "who")]
    windows = make_windows(examples, tokenizer, max_seq_length=9, doc_stride=2)
    assert [tokenizer.tokens(windows[i].ids) for i in range(len(windows))] == [
        "[CLS] who [SEP] a b c d e [SEP]".split(),
        "[CLS] who [SEP] d e f g h [SEP]".split(),
        "[CLS] who [SEP] g h i [SEP]".split(),
    ]
    assert windows.first_token.tolist() == [0, 3, 6]
    assert list(zip(windows.start_positions.tolist(), windows.end_positions.tolist())) == [(0, 0), (6, 7), (3, 4)]
    assert windows[1].offsets.tolist() == [[0, 0]] * 3 + [[6, 7], [8, 9], [10, 11], [12, 13], [14, 15]] + [[0, 0]]


def test_a_window_is_a_view_of_its_rows(tokenizer):
    examples = [example("a b c d e f g h i", "g h", "who"), example("the clock", "clock", "what is it")]
    windows = make_windows(examples, tokenizer, max_seq_length=9, doc_stride=2)
    assert len(windows) == len(windows.lengths) == 4
    for i, window in enumerate(windows[i] for i in range(len(windows))):
        assert np.shares_memory(window.ids, windows.ids) and np.shares_memory(window.offsets, windows.offsets)
        assert len(window.ids) == len(window.offsets) == windows.lengths[i]
        assert (window.example, window.context_start) == ((0, 3) if i < 3 else (1, 5))
        assert (window.start_position, window.end_position) == (windows.start_positions[i], windows.end_positions[i])
    assert (windows.ids.dtype, windows.offsets.dtype) == (np.int32, np.int32)
    assert windows.pad_id == VOCABULARY.index("[PAD]")
    with pytest.raises(IndexError):
        windows[4]


def test_no_examples_give_no_windows(tokenizer):
    assert len(make_windows([], tokenizer)) == 0


@pytest.mark.parametrize("context", ["", " \n\t ", "\x00"])
def test_a_context_without_a_token_gives_one_window_that_points_at_cls(tokenizer, context):
    examples = [example("the clock", "clock"), example(context), example("iron", "iron")]
    windows = make_windows(examples, tokenizer)
    assert windows.example.tolist() == [0, 1, 2]
    assert tokenizer.tokens(windows[1].ids) == "[CLS] who made it ? [SEP] [SEP]".split()
    assert (windows[1].start_position, windows[1].end_position) == (0, 0)
    assert [label_text(windows, i, examples) for i in (0, 2)] == ["clock", "iron"]


# --- the question


def test_the_outer_blanks_of_a_question_are_stripped(tokenizer, monkeypatch):
    encoded, encode = [], tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda texts: encoded.extend(texts) or encode(texts))
    make_windows([example(" iron ", question=" \n who  ?\t\u3000")], tokenizer)
    assert encoded == [" iron ", "who  ?"]  # the context is never edited: its offsets would move


def test_a_long_question_is_cut_and_counted(tokenizer):
    examples = [example("the clock", "clock", "who made the old iron clock ?"), example("iron", question="who ?")]
    windows = make_windows(examples, tokenizer, max_query_length=3)
    assert tokenizer.tokens(windows[0].ids) == "[CLS] who made the [SEP] the clock [SEP]".split()
    assert label_text(windows, 0, examples) == "clock"
    assert windows.counts["cut_questions"] == 1


def test_a_question_leaves_room_for_one_token_of_context(tokenizer):
    examples = [example("a b c", "b", "who made the old iron clock ?")]
    windows = make_windows(examples, tokenizer, max_seq_length=8, doc_stride=4)
    assert [tokenizer.tokens(windows[i].ids)[5:] for i in range(3)] == [["[SEP]", c, "[SEP]"] for c in "abc"]
    assert [label_text(windows, i, examples) for i in range(3)] == [None, "b", None]


# --- the overlap


@pytest.mark.parametrize(
    "doc_stride, firsts",
    [
        (0, [0, 7, 14]),
        (1, [0, 6, 12]),
        (6, list(range(0, 13))),
        (7, [0, 4, 8, 12]),  # no room left to advance: half the room, 3 tokens, instead
        (50, [0, 4, 8, 12]),
    ],
)
def test_neighbours_share_doc_stride_tokens_or_half_their_room(tokenizer, doc_stride, firsts):
    context = " ".join("abcdefghijklmnopqrs")  # 19 tokens; room 7
    windows = make_windows([example(context, question="who ?")], tokenizer, 12, doc_stride)
    assert windows.first_token.tolist() == firsts
    assert context_tokens(windows, len(firsts) - 1)[-1] == 18


@pytest.mark.parametrize("tokens, count", [(6, 1), (7, 1), (8, 2), (11, 2), (12, 3)])
def test_no_window_follows_one_that_ends_with_the_context(tokenizer, tokens, count):
    context = " ".join("abcdefghijklmnopqrs"[:tokens])
    assert len(make_windows([example(context, question="who ?")], tokenizer, 12, 3)) == count


def check_windows(examples, tokenizer, max_seq_length: int, doc_stride: int, max_query_length: int) -> None:
    """Layout, coverage, overlap, stop rule and labels of all windows, by a plain loop over tokens."""
    windows = make_windows(examples, tokenizer, max_seq_length, doc_stride, max_query_length)
    assert windows.lengths.max() <= max_seq_length
    assert windows.example.tolist() == sorted(windows.example.tolist())
    for q, this in enumerate(examples):
        context, question = tokenizer.encode([this.context]), tokenizer.encode([this.question.strip()])
        question_ids = question.ids[: min(max_query_length, max_seq_length - 4)].tolist()
        room = max_seq_length - len(question_ids) - 3
        overlap = doc_stride if doc_stride < room else room // 2
        mine = np.flatnonzero(windows.example == q)
        held = [context_tokens(windows, i) for i in mine]
        assert held[0].start == 0 and held[-1].stop == len(context.ids)
        assert all(part.stop < len(context.ids) and len(part) == room for part in held[:-1])
        assert all(after.start == before.stop - overlap for before, after in pairwise(held))
        found = False
        for i, part in zip(mine, held):
            window = windows[i]
            ids = [
                tokenizer.cls_id,
                *question_ids,
                tokenizer.sep_id,
                *context.ids[list(part)].tolist(),
                tokenizer.sep_id,
            ]
            assert window.ids.tolist() == ids
            assert window.context_start == len(question_ids) + 2
            offsets = window.offsets.tolist()
            assert offsets[window.context_start : -1] == context.offsets[list(part)].tolist()
            assert all(pair == [0, 0] for pair in [*offsets[: window.context_start], offsets[-1]])
            expected = None
            if this.answers:
                (text, start), *_ = this.answers
                touched = [t for t, (a, b) in enumerate(context.offsets) if a < start + len(text) and b > start]
                assert touched
                if part.start <= touched[0] and touched[-1] < part.stop:
                    expected, found = text, True
            assert label_text(windows, i, examples) == expected
        assert found or not this.answers or len(touched) > 1  # a single token is in some window


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    max_seq_length=st.integers(8, 40),
    doc_stride=st.integers(0, 50),
    max_query_length=st.integers(1, 10),
)
def test_any_setting_covers_every_context_and_labels_every_answer(
    tokenizer, seed, max_seq_length, doc_stride, max_query_length
):
    examples = drawn_examples(random.Random(seed), 5, 40)
    check_windows(examples, tokenizer, max_seq_length, doc_stride, max_query_length)


def test_windows_are_those_of_transformers_where_it_can_slide(vocab_folder, tokenizer):
    transformers = pytest.importorskip("transformers")
    peer = transformers.BertTokenizerFast.from_pretrained(vocab_folder, do_lower_case=True)
    draw, compared = random.Random(7), 0
    for max_seq_length in (15, 16, 21, 32, 47):
        for doc_stride in (0, 1, 2, 5, 8, 13, 20, 31):
            for this in drawn_examples(draw, 6, 60):
                room = max_seq_length - len(tokenizer.encode([this.question]).ids) - 3
                if not this.context.strip() or doc_stride >= room:
                    continue
                theirs = peer(
                    this.question,
                    this.context,
                    truncation="only_second",
                    max_length=max_seq_length,
                    stride=doc_stride,
                    return_overflowing_tokens=True,
                    return_offsets_mapping=True,
                )
                windows = make_windows([this], tokenizer, max_seq_length, doc_stride)
                assert [windows[i].ids.tolist() for i in range(len(windows))] == theirs["input_ids"]
                for i, (types, offsets) in enumerate(zip(theirs["token_type_ids"], theirs["offset_mapping"])):
                    assert windows[i].context_start == types.index(1)
                    context_rows = slice(types.index(1), len(types) - 1)
                    assert windows[i].offsets[context_rows].tolist() == [list(pair) for pair in offsets[context_rows]]
                compared += len(windows)
    assert compared > 500


def test_a_context_is_tokenised_once_for_all_its_questions(tokenizer, monkeypatch):
    encoded, encode = [], tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda texts: encoded.extend(texts) or encode(texts))
    contexts = ["the clock", "iron", "the clock", "the clock", "iron"]
    questions = [f"who made {i} ?" for i in range(5)]
    examples = [example(c, c.split()[-1], q) for c, q in zip(contexts, questions)]
    windows = make_windows(examples, tokenizer)
    assert sorted(encoded) == sorted({*contexts, *questions})
    assert [label_text(windows, i, examples) for i in range(5)] == ["clock", "iron", "clock", "clock", "iron"]


# --- the label


@pytest.mark.parametrize(
    "context, answer, label, kind",
    [
        ("the clock of iron", "clock of", "clock of", "exact"),
        ("the clock of iron", "the clock of iron", "the clock of iron", "exact"),
        ("the clock of iron", " clock ", "clock", "exact"),  # outer blanks do not count
        ("the clock\n of iron", "\n of ", "of", "exact"),
        ("the clock of iron", "loc", "clock", "widened"),  # an answer that cuts a word piece
        ("the clock of iron", "k of ir", "clock of iron", "widened"),
        ("the cafes of", "es", "es", "exact"),  # pieces caf ##e ##s
        ("the cafes of", "fe", "cafe", "widened"),
        ("iron, old", "iron,", "iron,", "exact"),
        ("old cafe\u0301 x", "cafe\u0301", "cafe", "widened"),  # the mark is in no token
    ],
)
def test_the_label_is_the_smallest_token_span_that_covers_the_answer(tokenizer, context, answer, label, kind):
    examples = [example("who", "who"), example(context, answer)]
    windows = make_windows(examples, tokenizer)
    assert label_text(windows, 1, examples) == label
    other = {"exact": "widened", "widened": "exact"}[kind]
    assert windows.counts[kind] - (kind == "exact") == 1 and windows.counts[other] - (other == "exact") == 0


def test_only_the_first_answer_is_the_label(tokenizer):
    examples = [Example("q", "", "who ?", "the clock of iron", (Gold("iron", 13), Gold("clock", 4)))]
    assert label_text(make_windows(examples, tokenizer), 0, examples) == "iron"


def test_the_label_is_where_the_answer_stands_and_not_its_first_occurrence(tokenizer):
    context = "iron iron iron iron"
    windows = make_windows([example(context, "iron", "who ?", at=9)], tokenizer)
    assert (windows.start_positions.tolist(), windows.end_positions.tolist()) == ([6], [6])


def test_an_answer_that_no_window_holds_whole_is_lost_and_its_windows_are_kept(tokenizer):
    examples = [example("a b c d e f g h", "b c d e f", "who ?"), example("a b c", "c", "who ?")]
    windows = make_windows(examples, tokenizer, max_seq_length=9, doc_stride=1)
    assert [label_text(windows, i, examples) for i in range(len(windows))] == [None, None, None, "c"]
    assert windows.counts["lost"] == 1 and windows.counts["exact"] == 2


def test_counts_say_what_became_of_every_question(tokenizer):
    examples = [
        example("the clock", "clock"),
        example("the clock", "loc"),
        example("iron"),
        example("a \x00 b", "\x00"),
    ]
    counts = make_windows(examples, tokenizer).counts
    assert counts["questions"] == counts["windows"] == 4
    assert [counts[key] for key in ("exact", "widened", "unanswered", "untokenized", "lost")] == [1, 1, 1, 1, 0]


# --- real files


@pytest.fixture(scope="module")
def minilm():
    if not (WEIGHTS / "minilm").is_dir():
        pytest.skip("weights/minilm is not there")
    return load_tokenizer(WEIGHTS / "minilm")


def test_the_v1_dev_set_gives_the_published_number_of_windows_uncased(squad_dir, minilm):
    assert len(make_windows(read_squad(squad_dir / "dev-v1.1.json"), minilm)) == 10_784


def test_the_v1_dev_set_gives_the_published_number_of_windows_cased(squad_dir, tmp_path):
    shutil.copy(squad_dir / "bert-base-cased-vocab.txt", tmp_path / "vocab.txt")
    assert len(make_windows(read_squad(squad_dir / "dev-v1.1.json"), load_tokenizer(tmp_path))) == 10_822


def touching(offsets: np.ndarray, start: int, end: int) -> np.ndarray:
    """Which tokens share a character with context[start:end]: the smallest span that covers it."""
    return np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))


@pytest.mark.parametrize(
    "name, max_seq_length, doc_stride", [("new-wiki", 96, 16), ("amazon", 384, 128), ("reddit", 384, 128)]
)
def test_labels_and_counts_of_a_real_file_are_those_of_a_plain_loop(
    squad_dir, minilm, name, max_seq_length, doc_stride
):
    examples = read_squad(squad_dir / f"shifts-{name}.json")
    windows = make_windows(examples, minilm, max_seq_length, doc_stride)
    contexts = list(dict.fromkeys(e.context for e in examples))
    encodings = minilm.encode(contexts)
    tokens = {c: encodings.offsets[encodings.bounds[i] : encodings.bounds[i + 1]] for i, c in enumerate(contexts)}
    bounds, owner, context_start = windows.bounds.tolist(), windows.example.tolist(), windows.context_start.tolist()
    labels = list(zip(windows.start_positions.tolist(), windows.end_positions.tolist()))
    counts = dict.fromkeys(("exact", "widened", "lost"), 0)
    i = 0
    for q, this in enumerate(examples):
        text, start = this.answers[0]
        start, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
        touched = tokens[this.context][touching(tokens[this.context], start, end)]
        counts["exact" if (touched[0, 0], touched[-1, 1]) == (start, end) else "widened"] += 1
        is_found = False
        while i < len(windows) and owner[i] == q:
            held = windows.offsets[bounds[i] + context_start[i] : bounds[i + 1] - 1]
            here = touching(held, start, end) + context_start[i]
            is_whole = len(here) == len(touched)
            assert labels[i] == ((here[0], here[-1]) if is_whole else (0, 0)), this.id
            is_found |= is_whole
            i += 1
        counts["lost"] += not is_found
    assert i == len(windows) == windows.counts["windows"]
    assert {key: windows.counts[key] for key in counts} == counts
    assert windows.counts["questions"] == len(examples) == counts["exact"] + counts["widened"]
    assert (counts["lost"] > 0) == (max_seq_length == 96)


# --- the command


@pytest.fixture
def data_file(tmp_path):
    answer = {"text": "copper", "answer_start": 37}
    context = "the clock tower of iron was made of (copper) in basel ."
    questions = [{"id": f"q{i}", "question": "who made it ?", "answers": [answer]} for i in range(2)]
    (tmp_path / "data.json").write_text(
        json.dumps({"data": [{"paragraphs": [{"context": context, "qas": questions}]}]})
    )
    return tmp_path / "data.json"


def test_show_prints_a_picture_with_the_answer_marked_and_ends_with_counts(data_file, vocab_folder):
    flags = ("--max-seq-length", 16, "--doc_stride=4")  # a hyphen is an underscore
    done = run("-m", "minibert.windows", "--data", data_file, "--model", vocab_folder, "--show", 1, *flags)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    marked = [line.split() for line in lines if line.endswith("<-- answer")]
    assert marked and all(words[1:4] == ["copper", "37-43", "'copper'"] for words in marked)
    assert sum(line.startswith("question q") for line in lines) == 1
    counts = json.loads(lines[-1])
    examples = read_squad(data_file)
    assert counts == make_windows(examples, load_tokenizer(vocab_folder), 16, 4).counts
    assert (counts["questions"], counts["windows"], counts["exact"]) == (2, 4, 2)
    assert sum(line.startswith("window ") for line in lines) == 2


def test_without_show_only_the_counts_are_printed(data_file, vocab_folder):
    done = run("-m", "minibert.windows", "--data", data_file, data_file.with_name("data.json"), "--model", vocab_folder)
    assert done.returncode == 2 and "used before" in done.stderr  # the same file twice has the same ids
    done = run("-m", "minibert.windows", "--data", data_file, "--model", vocab_folder)
    assert done.returncode == 0 and json.loads(done.stdout)["questions"] == 2


@pytest.mark.parametrize(
    "flags",
    [
        ("--doc_strid", "5"),
        ("--max_seq", "20"),  # an abbreviation
        ("--colour", "red"),
        ("--doc_stride", "381"),
        ("--doc_stride", "-1"),
        ("--max_seq_length", "7"),
        ("--max_query_length", "0"),
        ("--max_seq_length", "many"),
    ],
)
def test_bad_flags_end_with_code_2_and_one_line_that_names_the_flag(data_file, vocab_folder, flags):
    done = run("-m", "minibert.windows", "--data", data_file, "--model", vocab_folder, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert "error: " in last and flags[0] in last
    assert "Traceback" not in done.stderr


def test_a_doc_stride_just_below_the_limit_is_fine(data_file, vocab_folder):
    done = run("-m", "minibert.windows", "--data", data_file, "--model", vocab_folder, "--doc_stride", 380)
    assert done.returncode == 0, done.stderr


def test_a_missing_data_file_ends_with_code_2_and_one_line(vocab_folder, tmp_path):
    done = run("-m", "minibert.windows", "--data", tmp_path / "none.json", "--model", vocab_folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'none.json'}: ") and done.stderr.count("\n") == 1
