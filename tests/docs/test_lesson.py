"""docs/lesson.md holds what the code says and prints; `minibert lesson` walks the same way through other texts.

After a change of the code, `python tests/docs/test_lesson.py` writes the page's quotes and outputs anew.
"""

import ast
import contextlib
import importlib.util
import io
import re
import textwrap
from pathlib import Path

import pytest
import torch

from minibert.commands import lesson as walk
from minibert.model.bert import BertConfig
from minibert.support.errors import BadInput
from minibert.text.squad import read_squad
from minibert.text.windows import window_bounds
from minibert.training.step import learning_rate_at

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "lesson.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTE = re.compile(r"# (minibert/\S+\.py): ([\w.]+)\n")
NUMBER = re.compile(r"(-?\d+\.\d+)")


def definition(file: str, name: str) -> tuple[ast.FunctionDef | ast.ClassDef, str]:
    """The syntax tree of a function, class or method ("Layer.forward") of a file, and the file's source."""
    source = (ROOT / file).read_text("utf-8")
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part)
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    return node, source


def quote(file: str, name: str) -> str:
    """The source of a function, without its docstring and its indentation."""
    node, source = definition(file, name)
    lines = source.splitlines(keepends=True)
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        lines[docstring.lineno - 1 : docstring.end_lineno] = [""] * len(
            lines[docstring.lineno - 1 : docstring.end_lineno]
        )
    return textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))


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


def test_a_line_may_differ_in_the_last_digit_only():
    assert is_same("loss  3.62 ####", "loss  3.63 ###")
    assert is_same("x -0.0", "x  0.0")
    assert not is_same("loss 3.62", "loss 3.64")
    assert not is_same("loss 3.62", "loss 3.6")
    assert not is_same("shape (3, 32)", "shape (3, 31)")
    assert not is_same("3.62 'Jakob'", "3.62 'jakob'")


def test_the_page_quotes_the_source_and_prints_what_the_code_prints():
    page = PAGE.read_text("utf-8")
    lines, now = page.splitlines(), renewed(page).splitlines()
    changed = [f"- {old}\n+ {new}" for old, new in zip(lines, now) if not is_same(old, new)]
    assert not changed, "\n".join(["run python tests/docs/test_lesson.py", *changed])
    assert len(lines) == len(now)
    kinds = [kind for kind, _ in BLOCK.findall(page)]
    assert kinds.count("text") >= 8 and len(QUOTE.findall(page)) >= 8


def test_every_file_name_and_link_on_the_page_exists():
    page = PAGE.read_text("utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", page):
        assert (PAGE.parent / link).is_file(), link
    mentioned = re.findall(r"`((?:minibert|tests|examples|docs)/[\w/.]+)`(?:, `([\w.]+)`)?", page)
    assert len(mentioned) >= 15
    for file, name in mentioned:
        assert (ROOT / file).exists(), file
        if name:
            assert definition(file, name)


def test_every_exercise_of_the_page_has_its_test():
    exercises = (ROOT / "tests/docs/test_exercises.py").read_text("utf-8")
    named = re.findall(r"^\| \d \| `(\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(named) == len(set(named)) == 8
    assert set(re.findall(r"^def test_(\w+)\(\)", exercises, re.MULTILINE)) >= set(named)


def test_the_page_is_about_the_first_question_of_the_examples():
    example = read_squad(ROOT / "examples/dev.json")[0]
    assert (example.question, example.answers[0].text) == (walk.QUESTION, walk.ANSWER)
    assert example.context.startswith(walk.CONTEXT)


def test_the_trace_is_of_the_real_model_and_leaves_it_as_it_was():
    lesson = walk.page_lesson()
    attend = [layer.attention.attend for layer in lesson.model.encoder.layers]
    steps = walk.trace(lesson, layer=1)
    batch = lesson.batch
    with torch.no_grad():
        logits = lesson.model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    torch.testing.assert_close(steps["start logits, end logits"], logits[0])
    torch.testing.assert_close(steps["last layer"], steps["layer 1"])  # the second of two layers
    probabilities, is_token = steps["probabilities"], batch["attention_mask"].bool()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
    assert not is_token.all() and probabilities.transpose(1, 3)[~is_token].max() == 0
    assert [layer.attention.attend for layer in lesson.model.encoder.layers] == attend
    assert not any(module._forward_hooks for module in lesson.model.modules())


def test_the_shapes_are_those_of_the_legend():
    lesson = walk.page_lesson()
    config: BertConfig = lesson.model.config
    sizes = dict(B=len(lesson.windows), T=int(lesson.windows.lengths.max()), D=config.hidden_size)
    sizes |= dict(H=config.num_attention_heads, K=config.hidden_size // config.num_attention_heads)
    sizes |= dict(F=config.intermediate_size)
    assert len(set(sizes.values())) == len(sizes)  # so that a wrong letter cannot pass
    for line in walk.show_shapes(lesson).splitlines():
        shape, legend = re.findall(r"\(([^()]*)\)", line)
        assert shape.split(", ") == [str(sizes.get(letter, letter)) for letter in legend.split(", ")], line


def test_the_command_walks_through_the_readers_text(tiny_folder: Path, capsys: pytest.CaptureFixture[str]):
    text = ["--question", "who made the clock ?", "--context", "the clock was made by anna weiss in basel ."]
    model = ["--model", str(tiny_folder), "--layer", "1", "--head", "2"]
    walk.main([*text, *model, "--answer", "anna weiss", "--learning_rate", "0.005", "--updates", "40"])
    before, after = capsys.readouterr().out.split("LOSS")
    assert "label (12, 13): 'anna weiss'" in before and "layer 1, head 2: token 12 (anna)" in before
    assert "untrained" not in before
    best = after.partition("text\n")[2].splitlines()[0]
    assert best.endswith("22-32       'anna weiss'")
    walk.main([*text, *model])
    assert "LOSS" not in (printed := capsys.readouterr().out) and "label (0, 0)" in printed


@pytest.mark.parametrize(
    "words, message",
    [
        (["--question", "who ?"], "expected --question and --context together"),
        (["--question", "who ?", "--context", "anna", "--answer", "maria"], "expected a part of the context"),
        (["--question", "who ?", "--context", " "], "--context"),
        (["--question", "who ?", "--context", "\u0301"], "nothing that the tokenizer keeps"),
        (["--question", "who ?", "--context", "anna " * 500], "expected at most 8 windows, found"),
        (["--question", "who ?", "--context", "anna", "--layer", "2"], "--layer: expected 0 to 1, found 2"),
        (["--question", "who ?", "--context", "anna", "--head", "3"], "--head: expected 0 to 2, found 3"),
    ],
)
def test_the_command_refuses_what_it_cannot_show(tiny_folder: Path, words: list[str], message: str):
    with pytest.raises(BadInput, match=re.escape(message)):
        walk.main([*words, "--model", str(tiny_folder)])


@pytest.mark.slow
def test_the_default_model_learns_one_question(capsys: pytest.CaptureFixture[str]):
    if not (ROOT / "weights/minilm").is_dir():
        pytest.skip("weights/minilm is not here")
    walk.main(
        ["--question", "Who made it?", "--context", "The clock was made by Anna Weiss.", "--answer", "Anna Weiss"]
    )
    printed = capsys.readouterr().out
    assert "The span head is untrained" in printed
    assert printed.rpartition("text\n")[2].splitlines()[0].endswith("'Anna Weiss'")


def pictures():
    """The module docs/pictures/draw.py."""
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs/pictures/draw.py")
    assert spec and spec.loader
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    return draw


def test_the_pictures_are_what_the_script_draws_by_the_rules_of_the_code():
    draw = pictures()
    for name, picture in draw.PICTURES.items():
        assert (ROOT / "docs/pictures" / name).read_text("utf-8") == str(picture()), f"run {draw.__file__}"
    assert list(window_bounds(draw.CONTEXT_LENGTH, draw.ROOM, draw.OVERLAP)) == draw.WINDOWS
    rates = [learning_rate_at(step, draw.STEPS, draw.WARMUP_RATIO, draw.PEAK) for step in range(draw.STEPS + 1)]
    assert [draw.rate(step) for step in range(draw.STEPS + 1)] == pytest.approx(rates)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8", newline="\n")
