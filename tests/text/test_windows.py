"""windows.py: every token of a context is in a window, every label is the answer, and counts equal published ones."""

import doctest
import random
import shutil
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.evaluation.check import count_windows
from minibert.text import windows as module
from minibert.text.records import Example, Gold
from minibert.text.squad import read_squad
from minibert.text.tokenizer import load_tokenizer
from minibert.text.windows import make_windows
from tests.builders import VOCABULARY

WORDS = "the clock tower of basel cafes un-able 1871 (iron) Kings' zzz \u00e9t\u00e9 \u4e00\u4e8c, . \U0001f600".split()


def example(context: str, answer: str | None = None, question: str = "who made it ?", start: int = 0) -> Example:
    """An example whose answer is the first occurrence from character `start` on."""
    golds = () if answer is None else (Gold(answer, context.index(answer, start)),)
    return Example("q", "", question, context, golds)


def labels_of(windows) -> list[list[tuple[int, int]]]:
    """Every window's labels, one for each annotator."""
    return [list(zip(*both)) for both in zip(windows.start_positions.tolist(), windows.end_positions.tolist())]


def label_text(windows, i: int, examples) -> str | None:
    """The text of a window's label, or None where the label is [CLS]."""
    window = windows[i]
    if (window.start_position, window.end_position) == (0, 0):
        return None
    start, end = window.offsets[window.start_position, 0], window.offsets[window.end_position, 1]
    return examples[window.example].context[start:end]


def context_tokens(windows, i: int) -> range:
    """The context tokens that window i holds."""
    first = int(windows.first_token[i])
    return range(first, first + int(windows.lengths[i] - windows.context_start[i] - 1))


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(module).attempted >= 5
    assert doctest.testmod(module).failed == 0


# ---- the layout


def test_the_windows_of_the_picture_in_the_docstring(tokenizer):
    examples = [example("a b c d e f g h i", "g h", "who")]
    windows = make_windows(examples, tokenizer, max_seq_length=9, doc_stride=2)
    picture = " ".join((module.__doc__ or "").split())
    for i in range(len(windows)):
        tokens, label = " ".join(tokenizer.tokens(windows[i].ids)), (windows[i].start_position, windows[i].end_position)
        assert f"window {i} {tokens} label {label}" in picture
    assert windows.first_token.tolist() == [0, 3, 6]
    assert labels_of(windows) == [[(0, 0)], [(6, 7)], [(3, 4)]]
    assert windows[1].offsets.tolist() == [[0, 0]] * 3 + [[6, 7], [8, 9], [10, 11], [12, 13], [14, 15]] + [[0, 0]]


def test_a_window_is_a_view_of_its_rows(tokenizer):
    examples = [example("a b c d e f g h i", "g h", "who"), example("the clock", "clock", "what is it")]
    windows = make_windows(examples, tokenizer, max_seq_length=9, doc_stride=2)
    assert len(windows) == len(windows.lengths) == 4
    for i in range(len(windows)):
        window = windows[i]
        assert np.shares_memory(window.ids, windows.ids) and np.shares_memory(window.offsets, windows.offsets)
        assert len(window.ids) == len(window.offsets) == windows.lengths[i]
        assert (window.example, window.context_start) == ((0, 3) if i < 3 else (1, 5))
        assert (window.start_position, window.end_position) == labels_of(windows)[i][0]
    assert {name: array.dtype for name, array in vars(windows).items() if isinstance(array, np.ndarray)} == {
        **dict.fromkeys(["ids", "offsets"], np.int32),
        **dict.fromkeys("bounds example first_token context_start start_positions end_positions".split(), np.int64),
    }
    assert windows.pad_id == VOCABULARY.index("[PAD]")
    assert repr(windows) == f"<4 windows of 2 questions, {9 + 9 + 7 + 8} tokens>"
    with pytest.raises(IndexError):
        windows[4]


def test_no_examples_give_no_windows(tokenizer):
    windows = make_windows([], tokenizer)
    assert (len(windows), windows.ids.shape, windows.offsets.shape, windows.bounds.tolist()) == (0, (0,), (0, 2), [0])


@pytest.mark.parametrize("context", ["", " \n\t ", "\x00"])
def test_a_context_without_a_token_gives_one_window_whose_label_is_cls(tokenizer, context):
    examples = [example("the clock", "clock"), example(context), example("iron", "iron")]
    windows = make_windows(examples, tokenizer)
    assert windows.example.tolist() == [0, 1, 2]
    assert tokenizer.tokens(windows[1].ids) == "[CLS] who made it ? [SEP] [SEP]".split()
    assert [label_text(windows, i, examples) for i in range(3)] == ["clock", None, "iron"]


def test_a_question_is_stripped_and_a_context_is_tokenized_once_and_never_edited(tokenizer, monkeypatch):
    encoded, encode = [], tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda texts: encoded.extend(texts) or encode(texts))
    contexts = [" the clock\n", "iron ", " the clock\n", " the clock\n", "iron "]
    examples = [example(context, context.split()[-1], f" \n who  {i} ?\t\u3000") for i, context in enumerate(contexts)]
    windows = make_windows(examples, tokenizer)
    assert sorted(encoded) == sorted({*contexts, *(f"who  {i} ?" for i in range(5))})
    assert [label_text(windows, i, examples) for i in range(5)] == ["clock", "iron", "clock", "clock", "iron"]


# ---- the labels

KINDS = ("exact", "widened", "narrowed")


@pytest.mark.parametrize(
    ("context", "answer", "label", "kind"),
    [
        ("the clock of iron", "clock of", "clock of", "exact"),
        ("the clock of iron", "the clock of iron", "the clock of iron", "exact"),
        ("the clock of iron", " clock ", "clock", "exact"),  # outer whitespace does not count
        ("the clock\n of iron", "\n of ", "of", "exact"),
        ("the clock of iron", "loc", "clock", "widened"),  # begins and ends inside a token
        ("the clock of iron", "k of ir", "clock of iron", "widened"),
        ("the cafes of", "es", "es", "exact"),  # the pieces caf ##e ##s
        ("the cafes of", "fe", "cafe", "widened"),
        ("iron, old", "iron,", "iron,", "exact"),
        ("old cafe\u0301 x", "cafe\u0301", "cafe", "narrowed"),  # the accent is in no token
        ("was \x00iron", "\x00iron", "iron", "narrowed"),  # nor is what a PDF leaves of a ligature
        ("clock of iron " * 7_000, "iron", "iron", "exact"),
        ("x" * 10**5, "x", "x" * 10**5, "widened"),  # in one token
    ],
    ids=lambda value: value[:20],
)
def test_the_label_is_the_smallest_token_span_that_covers_the_answer(tokenizer, context, answer, label, kind):
    examples = [example(context, answer), example("who")]
    windows = make_windows(examples, tokenizer)
    assert label_text(windows, 0, examples) == label
    counts = count_windows(examples, windows, tokenizer)
    assert {name: counts[name] for name in KINDS} == dict.fromkeys(KINDS, 0) | {kind: 1}


def test_counts_say_what_became_of_every_question(tokenizer):
    """A window that does not hold the whole answer is kept, and its label is [CLS]."""
    examples = [
        example("the clock", "clock"),
        example("the clock", "loc"),
        example("iron", question="who made the old iron clock ?"),
        example("a \x00 b", "\x00"),
        example("a b c d e f g h i j k", "b c d e f g h i", "who ?"),
    ]
    windows = make_windows(examples, tokenizer, 12, 3, max_query_length=6)
    assert count_windows(examples, windows, tokenizer, max_answer_length=1) == (
        {"questions": 5, "windows": 6, "exact": 2, "widened": 1, "narrowed": 0, "unanswered": 1, "untokenized": 1}
        | {"lost": 1, "cut_questions": 1, "too_long": 0, "duplicate_questions": 1, "unknown_tokens": 0}
    )
    assert [label_text(windows, i, examples) for i in range(6)] == ["clock", "clock", None, None, None, None]


def test_every_annotators_answer_is_a_label_and_fewer_answers_repeat_in_turn(tokenizer):
    """Two windows of a b c d e f and e f g h, tokens 3 to 8 and 3 to 6; then windows of a short context."""
    long, short = "a b c d e f g h", "clock \x00"
    golds = [
        [("b", 2), ("f g", 10), ("e f", 8)],
        [("g h", 12), ("a", 0)],
        [("clock", 0), ("clock", 0), ("lock", 1)],  # agreement counts twice, and "lock" is widened to the same token
        [("\x00", 6), ("clock", 0)],  # in no token
        [],
    ]
    contexts = [long, long, short, short, short]
    examples = [
        Example("q", "", "who", context, tuple(Gold(*gold) for gold in own)) for context, own in zip(contexts, golds)
    ]
    windows = make_windows(examples, tokenizer, max_seq_length=10, doc_stride=2)
    assert labels_of(windows) == [
        [(4, 4), (0, 0), (7, 8)],  # the second annotator's answer is cut by the window's end
        [(0, 0), (4, 5), (3, 4)],
        [(0, 0), (3, 3), (0, 0)],
        [(5, 6), (0, 0), (5, 6)],
        [(3, 3)] * 3,
        [(0, 0), (3, 3), (0, 0)],
        [(0, 0)] * 3,
    ]
    counts = count_windows(examples, windows, tokenizer)
    assert [counts[name] for name in ("exact", "untokenized", "unanswered", "lost")] == [3, 1, 1, 0]
    assert labels_of(make_windows(examples[1:2], tokenizer))[0] == [(9, 10), (3, 3)]
    assert labels_of(make_windows(examples[4:], tokenizer)) == [[(0, 0)]]


def test_one_question_with_very_many_answers_does_not_make_all_others_large(tokenizer):
    many = Example("q", "", "who", "a b c", (Gold("a", 0),) * 15 + (Gold("b", 2),) * 1000)
    windows = make_windows([many, Example("q", "", "who", "a b c", (Gold("c", 4),))], tokenizer)
    assert labels_of(windows) == [[(3, 3)] * 15 + [(4, 4)], [(5, 5)] * 16]


def test_of_several_answers_the_first_most_answers_have_a_column(tokenizer):
    several = Example("q", "", "who", "a b c", (Gold("a", 0), Gold("b", 2), Gold("c", 4)))
    for most, labels in ((1, [(3, 3)]), (2, [(3, 3), (4, 4)]), (7, [(3, 3), (4, 4), (5, 5)])):
        assert labels_of(make_windows([several], tokenizer, most_answers=most)) == [labels]


# ---- against the definition, window by window


def check_windows(examples, tokenizer, max_seq_length: int, doc_stride: int, max_query_length: int = 64) -> dict:
    """Compare layout, coverage, overlap, stop rule and labels with their definitions; return the counts."""
    windows = make_windows(examples, tokenizer, max_seq_length, doc_stride, max_query_length)
    assert windows.example.tolist() == sorted(windows.example.tolist()) and windows.lengths.max() <= max_seq_length
    counts = dict.fromkeys((*KINDS, "lost", "cut_questions"), 0)
    contexts = list(dict.fromkeys(e.context for e in examples))
    encoded = dict(zip(contexts, tokenizer.encode(contexts)))
    questions = tokenizer.encode([e.question.strip() for e in examples])
    labels = labels_of(windows)
    assert {len(row) for row in labels} == {max(1, *(len(e.answers) for e in examples))}
    windows_of = np.split(np.arange(len(windows)), np.flatnonzero(np.diff(windows.example)) + 1)
    assert [windows.example[numbers[0]] for numbers in windows_of] == list(range(len(examples)))
    for this, (question_ids, _), numbers in zip(examples, questions, windows_of):
        context_ids, offsets = encoded[this.context]
        question = question_ids[: min(max_query_length, max_seq_length - 4)].tolist()
        counts["cut_questions"] += len(question) < len(question_ids)
        room = max_seq_length - len(question) - 3
        overlap = doc_stride if doc_stride < room else room // 2
        parts = [context_tokens(windows, i) for i in numbers]
        assert parts[0].start == 0 and parts[-1].stop == len(context_ids)
        assert all(part.stop < len(context_ids) and len(part) == room for part in parts[:-1])
        assert all(after.start == before.stop - overlap for before, after in pairwise(parts))
        touched_by = []  # the tokens of each annotator's answer
        for text, start in this.answers:
            start, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
            touched_by.append(touched := np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start)))
            if len(touched_by) > 1 or not len(touched):
                continue  # the counts are of the first answers
            covered, wanted = set(range(offsets[touched[0], 0], offsets[touched[-1], 1])), set(range(start, end))
            counts["exact" if covered == wanted else "widened" if covered - wanted else "narrowed"] += 1
        touched_by = touched_by or [np.array([], int)]
        is_held = False
        for i, part in zip(numbers, parts):
            window, rows = windows[i], slice(part.start, part.stop)
            ids = [tokenizer.cls_id, *question, tokenizer.sep_id, *context_ids[rows].tolist(), tokenizer.sep_id]
            assert window.ids.tolist() == ids and window.context_start == len(question) + 2
            assert (window.offsets[window.context_start : -1] == offsets[rows]).all()
            assert not window.offsets[: window.context_start].any() and not window.offsets[-1].any()
            for k, label in enumerate(labels[i]):
                touched, expected = touched_by[k % len(touched_by)], (0, 0)
                if len(touched) and touched[0] in part and touched[-1] in part:
                    ids_before = window.context_start - part.start
                    expected = ids_before + touched[0], ids_before + touched[-1]
                    is_held = is_held or k == 0
                assert label == expected
            assert (window.start_position, window.end_position) == labels[i][0]
        counts["lost"] += len(touched_by[0]) > 0 and not is_held
        assert is_held or len(touched_by[0]) != 1  # a single token is always in some window
    assert count_windows(examples, windows, tokenizer).items() >= counts.items()
    return counts


def draw_examples(draw: random.Random, count: int, most_words: int) -> list[Example]:
    """Random texts of up to `most_words` words, some of them used twice; most answers are a few words or a part."""
    examples: list[Example] = []
    for i in range(count):
        words = (draw.choice(WORDS) + draw.choice((" ", " ", "  ", "\n")) for _ in range(draw.randint(0, most_words)))
        context = examples[-1].context if examples and draw.random() < 0.3 else "".join(words)
        question = draw.choice((" ", "")) + " ".join(draw.choices(WORDS, k=draw.randint(1, 9))) + " "
        golds = ()
        if (visible := [c for c in range(len(context)) if not context[c].isspace()]) and draw.random() < 0.8:
            start = draw.choice(visible)
            golds = (Gold(context[start : start + draw.choice((1, 3, 9, 30))], start), Gold(context[:1], 0))
            golds = (*golds, Gold(context[start:], start))[: draw.randint(1, 3)]
        examples.append(Example(f"q{i}", "", question, context, golds))
    return examples


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    max_seq_length=st.integers(8, 40),
    doc_stride=st.integers(0, 50),
    max_query_length=st.integers(1, 10),
)
def test_any_setting_covers_every_context_and_labels_every_answer(
    tokenizer, seed, max_seq_length, doc_stride, max_query_length
):
    check_windows(draw_examples(random.Random(seed), 5, 40), tokenizer, max_seq_length, doc_stride, max_query_length)


@pytest.mark.parametrize(("name", "max_seq_length", "doc_stride"), [("new-wiki", 96, 16), ("reddit", 384, 128)])
def test_windows_labels_and_counts_of_a_real_file(squad_dir, minilm_folder, name, max_seq_length, doc_stride):
    examples = read_squad(squad_dir / f"shifts-{name}.json")[::8]
    counts = check_windows(examples, load_tokenizer(minilm_folder), max_seq_length, doc_stride)
    assert counts["exact"] + counts["widened"] == len(examples)
    assert (counts["lost"] > 0) == (max_seq_length == 96)


@pytest.mark.parametrize(("casing", "count"), [("cased", 10_822), ("uncased", 10_784)])
def test_the_v1_dev_set_gives_the_published_number_of_windows(squad_dir, tmp_path, request, casing, count):
    if casing == "cased":
        shutil.copy(squad_dir / "bert-base-cased-vocab.txt", tmp_path / "vocab.txt")
    folder = tmp_path if casing == "cased" else request.getfixturevalue("minilm_folder")
    assert len(make_windows(read_squad(squad_dir / "dev-v1.1.json"), load_tokenizer(folder))) == count


def test_windows_are_those_of_transformers_where_it_can_slide(vocab_folder, tokenizer):
    transformers = pytest.importorskip("transformers")
    peer = transformers.BertTokenizerFast.from_pretrained(vocab_folder, do_lower_case=True)
    wanted = {"truncation": "only_second", "return_overflowing_tokens": True, "return_offsets_mapping": True}
    draw, compared = random.Random(7), 0
    for max_seq_length, doc_stride in product((15, 21, 47), (0, 1, 5, 13, 31)):
        for this in draw_examples(draw, 6, 60):
            room = max_seq_length - len(tokenizer.encode([this.question])[0][0]) - 3
            if not this.context.strip() or doc_stride >= room:
                continue
            expected = peer(this.question, this.context, max_length=max_seq_length, stride=doc_stride, **wanted)
            windows = make_windows([this], tokenizer, max_seq_length, doc_stride)
            assert [windows[i].ids.tolist() for i in range(len(windows))] == expected["input_ids"]
            for i, (types, offsets) in enumerate(zip(expected["token_type_ids"], expected["offset_mapping"])):
                assert windows[i].context_start == types.index(1)
                rows = slice(types.index(1), len(types) - 1)
                assert windows[i].offsets[rows].tolist() == [list(pair) for pair in offsets[rows]]
            compared += len(windows)
    assert compared > 200


@pytest.mark.slow
def test_a_context_of_9_megabytes_is_split_within_3_gigabytes(tokenizer):
    resource = pytest.importorskip("resource")
    memory, context = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "clock of iron " * (9 * 10**6 // 14)
    examples = [example(context, "iron")] * 2
    assert count_windows(examples, make_windows(examples, tokenizer), tokenizer)["exact"] == 2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < 3 << 30
