"""The shape of the project: one reading order, small files, nothing that runs what it loads."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import minibert

PACKAGE = ROOT / "minibert"
ORDER = re.findall(r"^    (\w+)  ", minibert.__doc__, flags=re.MULTILINE)
FILES = sorted([*PACKAGE.glob("*.py"), *ROOT.glob("*.py")])


def imported_modules(file) -> set[str]:
    """Modules of the package that a file imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "minibert":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minibert."):
            found.add(node.module.split(".")[1])
    return found


def test_the_reading_order_names_every_file():
    assert sorted(ORDER) == sorted(file.stem for file in PACKAGE.glob("*.py") if file.stem != "__init__")


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_files_above_it(name):
    above = set(ORDER[: ORDER.index(name)])
    assert imported_modules(PACKAGE / f"{name}.py") <= above


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_and_functions_stay_small(file):
    text = file.read_text("utf-8")
    assert text.count("\n") <= 280
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_that_is_loaded_can_run(file):
    banned_names = {"eval", "exec", "compile", "__import__"}
    banned_attributes = {"all_gather_object", "gather_object", "broadcast_object_list", "system", "popen"}
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {"pickle", "marshal", "shelve", "yaml", "transformers"}
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ("pickle", "marshal", "shelve", "yaml", "transformers")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in banned_names
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in banned_attributes
            assert not (node.func.attr == "load" and getattr(node.func.value, "id", "") == "torch")
            assert not any(keyword.arg == "shell" for keyword in node.keywords)


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import minibert; print(*set(sys.modules) - before)"
    command = [sys.executable, "-c", code]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in names if name.split(".")[0] not in sys.stdlib_module_names] == ["minibert"]


def test_every_public_name_is_there():
    for name in minibert.__all__:
        assert callable(getattr(minibert, name))
    with pytest.raises(AttributeError):
        minibert.no_such_name  # noqa: B018
