"""docs/lesson.md holds what the code says and prints; `minibert lesson` walks the same way through other texts.

After a change of the code, `python tests/docs/test_lesson.py` writes the page's quotes and outputs anew.
"""

import ast
import contextlib
import functools
import inspect
import io
import re
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from minibert.commands import lesson as command
from minibert.commands import walk
from minibert.support.errors import BadInput
from minibert.text.squad import read_squad
from minibert.text.windows import window_bounds
from minibert.training.step import learning_rate_at

ROOT = Path(__file__).resolve().parents[2]  # not from tests.builders, so that this file also runs as a script
PAGE = ROOT / "docs" / "lesson.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTE = re.compile(r"# (minibert/\S+\.py): ([\w.]+)\n")
NUMBER = re.compile(r"(-?\d+\.\d+)")


def definition(file: str, name: str) -> Any:
    """The function, class or method ("Layer.forward") of a file of the package."""
    module = import_module(file.removesuffix(".py").replace("/", "."))
    return functools.reduce(getattr, name.split("."), module)


def quote(file: str, name: str) -> str:
    """The source of a function, without its docstring and its indentation."""
    lines = textwrap.dedent(inspect.getsource(definition(file, name))).splitlines(keepends=True)
    (node,) = ast.parse("".join(lines)).body
    if ast.get_docstring(node) is not None:
        del lines[node.body[0].lineno - 1 : node.body[0].end_lineno]
    return "".join(lines)


def renewed(page: str) -> str:
    """The page with each quote as the source has it now, and each output as its code prints it now."""
    printed, names = "", {}

    def renew(match: re.Match[str]) -> str:
        nonlocal printed
        kind, body = match.groups()
        if kind == "python" and (quoted := QUOTE.match(body)):
            body = quoted.group() + quote(*quoted.groups())
        elif kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(body, PAGE.name, "exec"), names)
            printed = output.getvalue()
        elif kind == "text":
            body, printed = printed, ""
        return f"```{kind}\n{body}```"

    return BLOCK.sub(renew, page)


def is_same(line: str, other: str) -> bool:
    """Whether two lines agree, but for one unit in the last digit of a decimal number: processors round differently."""
    parts, others = (NUMBER.split(re.sub("#{2,}", "##", re.sub(" +", " ", text))) for text in (line, other))
    if len(parts) != len(others) or [part.strip() for part in parts[::2]] != [part.strip() for part in others[::2]]:
        return False
    return all(
        len(a.partition(".")[2]) == len(b.partition(".")[2])
        and abs(float(a) - float(b)) < 1.01 * 10.0 ** -len(a.partition(".")[2])
        for a, b in zip(parts[1::2], others[1::2])
    )


@pytest.mark.parametrize(
    ("line", "other", "same"),
    [
        ("loss  3.62 ####", "loss  3.63 ###", True),
        ("x -0.0", "x  0.0", True),
        ("loss 3.62", "loss 3.64", False),
        ("loss 3.62", "loss 3.6", False),
        ("shape (3, 32)", "shape (3, 31)", False),
        ("3.62 'Jakob'", "3.62 'jakob'", False),
    ],
)
def test_a_line_may_differ_in_the_last_digit_only(line, other, same):
    assert is_same(line, other) is same


def test_the_page_quotes_the_source_and_prints_what_the_code_prints():
    page = PAGE.read_text("utf-8")
    lines, now = page.splitlines(), renewed(page).splitlines()
    changed = [f"- {old}\n+ {new}" for old, new in zip(lines, now) if not is_same(old, new)]
    assert not changed, "\n".join(["run python tests/docs/test_lesson.py", *changed])
    assert len(lines) == len(now)
    kinds = [kind for kind, _ in BLOCK.findall(page)]
    assert kinds.count("text") >= 8 and len(QUOTE.findall(page)) >= 8


def test_every_function_that_the_page_names_is_in_its_file():
    named = re.findall(r"`(minibert/[\w/.]+)`, `([\w.]+)`", PAGE.read_text("utf-8"))
    assert len(named) >= 15 and all(definition(file, name) for file, name in named)


def test_every_exercise_of_the_page_has_its_check():
    from tests.docs.test_exercises import EXERCISES

    assert re.findall(r"^\| \d \| `(\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE) == list(EXERCISES)


def test_the_page_is_about_the_first_question_of_the_examples():
    example = read_squad(ROOT / "examples/dev.json")[0]
    assert (example.question, example.answers[0].text) == (command.QUESTION, command.ANSWER)
    assert example.context.startswith(command.CONTEXT)


def test_the_bounds_on_the_page_are_those_of_its_windows():
    windows = command.page_lesson().windows
    stops = windows.first_token + windows.lengths - windows.context_start - 1
    assert str(list(zip(windows.first_token.tolist(), stops.tolist()))) in PAGE.read_text("utf-8")


def test_the_trace_is_of_the_real_model_and_leaves_it_as_it_was():
    lesson = command.page_lesson()
    attend = [layer.attention.attend for layer in lesson.model.encoder.layers]
    steps = walk.trace(lesson, layer=1)
    with torch.no_grad():
        logits = lesson.model(*lesson.inputs())
    torch.testing.assert_close(steps["start logits, end logits"], logits[0])
    torch.testing.assert_close(steps["last layer"], steps["layer 1"])  # the second of two layers
    probabilities, is_token = steps["probabilities"], lesson.batch["attention_mask"].bool()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
    assert not is_token.all() and probabilities.transpose(1, 3)[~is_token].max() == 0
    assert [layer.attention.attend for layer in lesson.model.encoder.layers] == attend
    assert not any(module._forward_hooks for module in lesson.model.modules())


def test_the_shapes_are_those_of_the_legend():
    lesson = command.page_lesson()
    config = lesson.model.config
    sizes = dict(B=len(lesson.windows), T=int(lesson.windows.lengths.max()), D=config.hidden_size)
    sizes |= dict(H=config.num_attention_heads, K=config.hidden_size // config.num_attention_heads)
    sizes |= dict(F=config.intermediate_size)
    assert len(set(sizes.values())) == len(sizes)  # so that a wrong letter cannot pass
    for line in walk.show_shapes(lesson).splitlines():
        shape, legend = re.findall(r"\(([^()]*)\)", line)
        assert shape.split(", ") == [str(sizes.get(letter, letter)) for letter in legend.split(", ")], line


def test_the_command_walks_through_the_readers_text(tiny_folder, capsys):
    text = ["--question", "who made the clock ?", "--context", "the clock was made by anna weiss in basel ."]
    model = ["--model", str(tiny_folder), "--layer", "1", "--head", "2"]
    command.main([*text, *model, "--answer", "anna weiss", "--learning_rate", "0.005", "--updates", "40"])
    before, after = capsys.readouterr().out.split("LOSS")
    assert "label (12, 13): 'anna weiss'" in before and "layer 1, head 2: token 12 (anna)" in before
    assert "untrained" not in before
    best = after.partition("text\n")[2].splitlines()[0]
    assert best.endswith("22-32       'anna weiss'")
    command.main([*text, *model])
    assert "LOSS" not in (printed := capsys.readouterr().out) and "label (0, 0)" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --question and --context together"),
        (["--context", "anna", "--answer", "maria"], "expected a part of the context"),
        (["--context", " "], "--context"),
        (["--context", "\u0301"], "nothing that the tokenizer keeps"),
        (["--context", "anna " * 500], "expected at most 8 windows, found"),
        (["--context", "anna", "--layer", "2"], "--layer: expected 0 to 1, found 2"),
        (["--context", "anna", "--head", "3"], "--head: expected 0 to 2, found 3"),
    ],
)
def test_the_command_refuses_what_it_cannot_show(tiny_folder, words, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        command.main(["--question", "who ?", *words, "--model", str(tiny_folder)])


@pytest.mark.slow
def test_the_default_model_learns_one_question(minilm_folder, capsys):
    words = ["--question", "Who made it?", "--context", "The clock was made by Anna Weiss.", "--answer", "Anna Weiss"]
    command.main([*words, "--model", str(minilm_folder)])
    printed = capsys.readouterr().out
    assert "The span head is untrained" in printed
    assert printed.rpartition("text\n")[2].splitlines()[0].endswith("'Anna Weiss'")


def test_the_pictures_are_what_the_script_draws_by_the_rules_of_the_code():
    from docs.pictures import draw

    for name, picture in draw.PICTURES.items():
        assert (ROOT / "docs/pictures" / name).read_text("utf-8") == str(picture()), f"run {draw.__file__}"
    assert list(window_bounds(draw.CONTEXT_LENGTH, draw.ROOM, draw.OVERLAP)) == draw.WINDOWS
    rates = [learning_rate_at(step, draw.STEPS, draw.WARMUP_RATIO, draw.PEAK) for step in range(draw.STEPS + 1)]
    assert [draw.rate(step) for step in range(draw.STEPS + 1)] == pytest.approx(rates)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8", newline="\n")
