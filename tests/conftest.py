"""Fixtures of all tests: the tiny tokenizer and model folders, and the folder of real SQuAD files."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from minibert.model.bert import BertForQuestionAnswering
from minibert.model.weights import save_model
from minibert.support.hub import DEFAULT_MODEL, find_local
from minibert.text.tokenizer import Tokenizer, load_tokenizer
from tests.builders import VOCABULARY, draw_weights, tiny_config

# Under nohup the tests would inherit an ignored SIGHUP, which the commands leave ignored. A handler is reset to the
# default in every process that a test starts.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
os.environ["HF_HUB_OFFLINE"] = "1"  # no test uses the network; the tests of the fake hub set their own value


@pytest.fixture(autouse=True)
def signal_handlers_put_back() -> Iterator[None]:
    """Restore the signal handlers after each test: a command called in this process installs its own."""
    numbers = {signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)}
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def squad_dir() -> Path:
    """The folder of real SQuAD files that the environment variable SQUAD_DIR names; skip without it."""
    folder = os.environ.get("SQUAD_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SQUAD_DIR does not name a folder with the real SQuAD files")
    return Path(folder)


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of the default model; skip where it was never downloaded."""
    folder = find_local(DEFAULT_MODEL)
    if folder is None:
        pytest.skip(f"{DEFAULT_MODEL} is neither in weights/ nor in the user's cache")
    return folder


@pytest.fixture(scope="session")
def vocab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with only a small uncased vocab.txt."""
    folder = tmp_path_factory.mktemp("vocab")
    (folder / "vocab.txt").write_text("".join(token + "\n" for token in VOCABULARY), "utf-8")
    return folder


@pytest.fixture(scope="session")
def tokenizer(vocab_folder: Path) -> Tokenizer:
    return load_tokenizer(vocab_folder)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A complete model folder with a drawn span head, as `save_model` writes it."""
    folder = tmp_path_factory.mktemp("tiny")
    save_model(draw_weights(BertForQuestionAnswering(tiny_config())), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def headless_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The tiny model without a span head."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("headless") / "model")
    tensors = load_file(folder / "model.safetensors")
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("qa_outputs")}
    save_file(encoder, folder / "model.safetensors", {"format": "pt"})
    return folder
