"""The shape of the package: seven rooms on one stair, and no line that could run what it loads.

The stair is read from the docstrings that describe it. `minibert/__init__.py` lists the rooms from the top to the foot;
each room's `__init__.py` lists its files in the order in which they may import each other. `docs/pictures/stair.py`
draws the same data.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import minibert
from tests.builders import ROOT, run

PACKAGE = ROOT / "minibert"


def parse(file: Path) -> ast.Module:
    """The syntax tree of a file; SyntaxError if it needs a Python newer than 3.10."""
    return ast.parse(file.read_text("utf-8"), str(file), feature_version=(3, 10))


def listed(file: Path) -> dict[str, str]:
    """name -> what it is, from the docstring lines of the form `    name        what it is`."""
    return dict(re.findall(r"^ *(\w+) {2,}(\S.*)$", ast.get_docstring(parse(file)) or "", flags=re.MULTILINE))


ROOMS = listed(PACKAGE / "__init__.py")  # from the top of the stair
FILES = {room: listed(PACKAGE / room / "__init__.py") for room in ROOMS}
STAIR = [f"{room}.{name}" for room in reversed(ROOMS) for name in FILES[room]]  # a file may import those before it
RUNTIME = {"torch", "tokenizers", "safetensors", "numpy", "tqdm"}
SOURCES = sorted(
    [*ROOT.glob("*.py"), *(file for folder in ("minibert", "benchmarks") for file in (ROOT / folder).rglob("*.py"))]
)


def path_of(module: str) -> Path:
    return PACKAGE / (module.replace(".", "/") + ".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """The full name of everything that a file imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imports(module: str) -> set[str]:
    """The modules of the package that a module imports, as `room.file`."""
    names = [name.split(".") for name in imported(parse(path_of(module)))]
    return {".".join(name[1:3]) for name in names if name[0] == "minibert"}


def outside_imports(tree: ast.AST) -> set[str]:
    """The packages that a file imports, beside the standard library and minibert."""
    return {name.split(".")[0] for name in imported(tree)} - set(sys.stdlib_module_names) - {"minibert"}


def for_type_checkers(tree: ast.AST) -> set[str]:
    """The packages that a file imports under `if TYPE_CHECKING`, which no running program does."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {name.split(".")[0] for block in blocks for name in imported(block)}


def test_the_docstrings_list_every_room_and_every_file():
    assert set(ROOMS) == {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    for room, files in FILES.items():
        found = {file.stem for file in (PACKAGE / room).glob("*.py")} - {"__init__"}
        assert set(files) == found, f"the docstring of minibert/{room}/__init__.py"
        assert len(parse(PACKAGE / room / "__init__.py").body) == 1, "only a docstring"


@pytest.mark.parametrize("module", STAIR)
def test_a_file_imports_only_from_below_and_the_runtime_packages(module):
    assert rooms_imports(module) <= set(STAIR[: STAIR.index(module)])
    tree = parse(path_of(module))
    hub = {"huggingface_hub"} if module == "support.transfer" else set()
    assert outside_imports(tree) - for_type_checkers(tree) <= RUNTIME | hub
    assert "importlib" not in {name.split(".")[0] for name in imported(tree)}


def test_the_stair_reports_an_import_from_above(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "path_of", lambda module: PACKAGE / "training/loop.py")
    assert not rooms_imports("text.squad") <= set(STAIR[: STAIR.index("text.squad")])


def test_the_encoder_and_its_loss_import_torch_alone():
    assert rooms_imports("model.bert") == set()
    assert outside_imports(parse(path_of("model.bert"))) == {"torch"}


def test_pyproject_names_the_runtime_packages():
    dependencies = re.search(r"^dependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    assert dependencies
    assert set(re.findall(r'"(\w+)', dependencies.group(1))) == RUNTIME


def test_the_tokenizers_package_brings_huggingface_hub():
    from importlib.metadata import requires

    assert any(re.match(r"huggingface[-_]hub\b(?!.*extra)", line) for line in requires("tokenizers") or [])


def of_one_system(tree: ast.Module) -> set[str]:
    """Modules of Unix or Windows alone that are imported at the top of a file, where no condition guards them."""
    modules = {"fcntl", "grp", "msvcrt", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty", "winreg"}
    tops = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return modules & {name.split(".")[0] for node in tops for name in imported(ast.Module([node], []))}


def what_could_run(tree: ast.AST) -> list[str]:
    """The places where a file could execute what it has read: pickles, eval, a shell, object collectives."""
    modules = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml", "transformers"}
    functions = {"eval", "exec", "compile", "__import__"}
    methods = {"all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "system", "popen"}
    keywords = {"shell", "allow_pickle", "trust_remote_code"}
    found = [name for name in imported(tree) if name.split(".")[0] in modules or name == "torch.load"]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        is_banned = name in functions | {"torch.load"} or (
            isinstance(call.func, ast.Attribute) and call.func.attr in methods
        )
        found += [name] if is_banned else []
        found += [f"{name}({word.arg}=)" for word in call.keywords if word.arg in keywords]
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_that_is_loaded_can_run(file):
    found = what_could_run(parse(file))
    is_peer = file.parent.name == "benchmarks"  # the one place that calls transformers, to compare with it
    assert [name for name in found if not (is_peer and name.split(".")[0] == "transformers")] == []
    assert of_one_system(parse(file)) == set()


DANGEROUS = """import pickle
from yaml import safe_load
from torch import load
torch.load(file)
eval(text)
dist.broadcast_object_list(rows)
subprocess.run(words, shell=True)
np.load(file, allow_pickle=True)
os.system(line)"""


@pytest.mark.parametrize("line", DANGEROUS.splitlines())
def test_a_line_that_could_run_something_is_found(line):
    assert len(what_could_run(ast.parse(line))) == 1


def test_an_unguarded_import_of_one_systems_module_is_found():
    assert of_one_system(ast.parse("import fcntl")) == {"fcntl"}
    assert of_one_system(ast.parse("if os.name == 'posix':\n    import fcntl")) == set()


WITH_TORCH = {"text.batches", "support.ranks", "support.progress", "support.machine"}
WITHOUT_TORCH = [
    *(module for module in STAIR if module.split(".")[0] in ("support", "text") and module not in WITH_TORCH),
    "answers.spans",
    "evaluation.scorer",
    "evaluation.predictions",
    "training.settings",
    "commands.flags",
    "commands.evaluate",
    "evaluation.calibration",
]


def test_files_searching_and_scoring_load_neither_torch_nor_the_hubs_library():
    code = (
        f"import sys, importlib\nfor name in {WITHOUT_TORCH}:\n"
        "    importlib.import_module('minibert.' + name)\n"
        "    if {'torch', 'huggingface_hub'} & set(sys.modules): sys.exit(name)"
    )
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import minibert; print(*set(sys.modules) - before)"
    names = run("-c", code).stdout.split()
    assert [name for name in names if name.split(".")[0] not in sys.stdlib_module_names] == ["minibert"]


def test_every_public_name_is_there_for_python_and_for_editors():
    block = next(node for node in parse(PACKAGE / "__init__.py").body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    for_editors = {name.rpartition(".")[2]: name.rpartition(".")[0].partition(".")[2] for name in imported(block)}
    assert for_editors == minibert.MODULES
    assert sorted(minibert.__all__) == sorted(minibert.MODULES)
    assert set(minibert.__all__) <= set(dir(minibert))
    for name in minibert.__all__:
        assert callable(getattr(minibert, name))
    with pytest.raises(AttributeError, match="no_such_name"):
        minibert.no_such_name  # noqa: B018
    assert (PACKAGE / "py.typed").is_file()


def test_the_picture_of_the_stair_is_up_to_date():
    from docs.pictures.stair import PICTURE, draw

    assert PICTURE.read_text("utf-8") == draw(), "run `python -m docs.pictures.stair`"
