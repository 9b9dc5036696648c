"""`minibert publish`: exactly the files that a model needs go to the hub, here a small one on localhost."""

import base64
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

import minibert
from minibert.answers.confidence import Answering, write_answering
from minibert.commands.publish import collect
from tests.builders import ROOT, toy_run
from tests.commands.damage import sign

UPLOADED = {"README.md", "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_folder):
    return toy_run(tmp_path_factory.mktemp("publish"), tiny_folder, 12, epochs=1)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload uses; the files that arrive are kept in `server.files`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        address = f"http://{self.headers['Host']}/me/mine"
        answer: dict = {"url": address, "name": "me/mine"}
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            answer = {"files": files}
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            contents = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files |= {file["path"]: base64.b64decode(file["content"]) for file in contents}
            answer = {"commitUrl": f"{address}/commit/1", "commitOid": "1"}
        self.reply(answer)

    def do_GET(self):
        self.reply({"_id": "1", "id": "me/mine", "sha": "1", "siblings": []})

    def reply(self, answer: dict) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_exactly_a_model_folder_arrives(run, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [sys.executable, "-m", "minibert", "publish", "--ckpt", str(run.folder), "--name", "me/mine"]
    env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
    env |= {"HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    server.shutdown()
    assert ended.returncode == 0, ended.stderr
    assert "me/mine" in ended.stdout.splitlines()[-1]
    assert set(server.files) == UPLOADED
    assert b"\n# mine\n" in server.files["README.md"] and b"minibert ask --ckpt me/mine " in server.files["README.md"]
    assert not any(str(run.folder.parent).encode() in content for content in server.files.values())
    for name, content in server.files.items():
        (tmp_path / name).write_bytes(content)
    saved, back = (minibert.load_model(folder).state_dict() for folder in (run.checkpoint, tmp_path))
    assert all(saved[name].equal(back[name]) for name in saved)


def test_a_calibration_is_published_too(run, tmp_path):
    checkpoint = shutil.copytree(run.checkpoint, tmp_path / "checkpoint")
    write_answering(checkpoint, Answering(null_score_diff_threshold=-1.5))
    (tmp_path / "out").mkdir()
    collect(checkpoint, tmp_path / "out", "me/mine", None)
    assert {path.name for path in (tmp_path / "out").iterdir()} == UPLOADED | {"answering.json"}


def test_a_dry_run_lists_the_files_and_asks_no_hub(run, command):
    done = command("publish", "--ckpt", run.folder, "--name", "me/mine", "--dry_run")
    listed = {line.split()[-1] for line in done.out.split("\n\n")[0].splitlines()}
    assert done.code == 0 and listed == UPLOADED and "nothing was uploaded" in done.out


def test_a_damaged_checkpoint_is_not_published_but_the_next_intact_one(run, command, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    best = (folder / "best").read_text("utf-8").strip()
    shutil.copytree(folder / best, folder / "checkpoint-1")
    weights = folder / best / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = command("publish", "--ckpt", folder, "--name", "me/mine", "--license", "mit", "--dry_run")
    assert done.code == 0 and f"{best}: model.safetensors is damaged" in done.err and 'license: "mit"' in done.out
    shutil.rmtree(folder / "checkpoint-1")
    command("publish", "--ckpt", folder, "--name", "me/mine", "--dry_run").assert_refused("is damaged")


def test_paths_of_this_machine_are_left_out(run, tmp_path):
    folder = shutil.copytree(run.checkpoint, tmp_path / "checkpoint")
    settings = folder / "tokenizer_config.json"
    content = json.loads(settings.read_text("utf-8"))
    settings.write_text(json.dumps(content | {"name_or_path": "/home/me/bert", "init_inputs": ["C:\\me\\t.json"]}))
    lines = collect(folder, tmp_path, "me/mine", None)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8")) == content
    assert lines[-2:] == [f"left out tokenizer_config.json: {key}" for key in ("name_or_path", "init_inputs")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "me/mine"], "--ckpt"),
        (["--ckpt", "RUN", "--name", "mine"], "expected ACCOUNT/MODEL"),
        (["--ckpt", "TINY", "--name", "me/mine"], "manifest"),
    ],
)
def test_what_is_refused(run, tiny_folder, command, words, says):
    folders = {"RUN": run.folder, "TINY": tiny_folder}
    command("publish", *[folders.get(word, word) for word in words]).assert_refused(says)


def test_a_link_and_a_foreign_answering_file_are_not_published(run, command, tmp_path):
    checkpoint = shutil.copytree(max(run.folder.glob("checkpoint-*")), tmp_path / "checkpoint")
    words = ["--ckpt", checkpoint, "--name", "me/mine", "--dry_run"]
    sign(checkpoint)
    (tmp_path / "secret").write_text('{"password": "\x1b"}', "utf-8")
    (checkpoint / "special_tokens_map.json").symlink_to(tmp_path / "secret")
    command("publish", *words).assert_refused("is a link")
    (checkpoint / "special_tokens_map.json").unlink()
    for content in (b"caf\xe9", b'{"password": 1}'):
        (checkpoint / "answering.json").write_bytes(content)
        command("publish", *words).assert_refused("answering.json")
