"""Damaged and hostile weight files: each is loaded, or refused in one line that names the file and the cause.

Random damage is in tests/commands/test_fuzz.py.
"""

import json
import os
import pickle
import shutil
import struct
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minibert.model.bert import BertConfig, BertForQuestionAnswering
from minibert.model.weight_files import WeightFile, save_tensors
from minibert.model.weights import load_model, save_model
from minibert.support.errors import BadInput
from tests.builders import run

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WORD = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"  # (24, 24)


@pytest.fixture
def folder(tmp_path, tiny_folder) -> Path:
    """A complete model folder, to be changed."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


# ---- ways to change a folder: each makes a function of the folder


def raw(change):
    """Change the bytes of the weights."""
    return lambda folder: (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))


def length(number: int):
    """Another length of the header: the first 8 bytes."""
    return raw(lambda content: struct.pack("<Q", number) + content[8:])


def header(change):
    """Another header: bytes, or a function that changes the dict or returns another dict or text."""

    def changed(content: bytes) -> bytes:
        end = 8 + int.from_bytes(content[:8], "little")
        text = change
        if callable(change):
            entries = json.loads(content[8:end])
            entries = change(entries) or entries
            text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
        return struct.pack("<Q", len(text)) + text + content[end:]

    return raw(changed)


def query(**changes):
    """Another header entry of one tensor."""
    return header(lambda entries: entries[QUERY].update(changes))


def tensor(values, name: str = QUERY):
    """Put a tensor into the well-formed file, or take it out (None)."""

    def change(folder: Path) -> None:
        state = load_file(folder / WEIGHTS) | {name: values}
        save_file({name: tensor for name, tensor in state.items() if tensor is not None}, folder / WEIGHTS)

    return change


def filled(value: float, dtype: torch.dtype):
    """Put one value among good ones."""
    values = torch.ones(24, 24, dtype=dtype)
    values[3, 4] = value
    return tensor(values)


def config(**changes):
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")

    return change


def index(change=lambda folder, weight_map: None):
    """Two shards and an index; `change` edits it or returns another text. The shards lie outside the folder too."""

    def split(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        weight_map = {name: "a.safetensors" if name in (WORD, QUERY) else "b.safetensors" for name in state}
        for shard in ("a.safetensors", "b.safetensors"):
            save_file({name: state[name] for name in state if weight_map[name] == shard}, folder / shard)
            shutil.copy(folder / shard, folder.parent / shard)
        text = change(folder, weight_map) or json.dumps({"weight_map": weight_map})
        (folder / INDEX).write_text(text, "utf-8")

    return split


def word_in(shard):
    """An index that looks for one tensor in this file; {} stands for the folder above."""

    def change(folder: Path, weight_map: dict) -> None:
        weight_map[WORD] = shard.replace("{}", str(folder.parent)) if isinstance(shard, str) else shard

    return index(change)


def with_evil(folder: Path, weight_map: dict) -> None:
    save_file(load_file(folder / "a.safetensors") | {"evil": torch.ones(2)}, folder / "a.safetensors")


def twice(entries: dict) -> str:
    return json.dumps(entries)[:-1] + f", {json.dumps(QUERY)}: {json.dumps(entries[QUERY])}}}"


def shape_error(found) -> str:
    return f"'{QUERY}': expected shape (24, 24) as in config.json, found {found}"


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133466304\n"
INCOMPLETE, UNEXPECTED, ASIDE = "not a complete safetensors", "unexpected tensor", "expected a file beside the index"
NORM, NORM_0 = "bert.encoder.layer.0.output.LayerNorm.", "encoder.layers.0.feed_forward_norm.weight"
NAMES = ["../x", "bert.evil", "a\0b", "\u202eb\x1b[2J", "a\nb", "x" * 900, "distilbert.embeddings.LayerNorm.bias"]
NAMES += [QUERY.replace("layer.1", "layer.2")]  # one layer too many
SHARDS = ["../a.safetensors", "{}/a.safetensors", "{}/model/a.safetensors", "..", "a\0.safetensors", "a" * 5000]
SHARDS += ["c.safetensors", 3, None, ["a.safetensors"]]
# (how a folder is changed, the file that the message names, words in it)
BROKEN = [
    (raw(lambda content: b""), WEIGHTS, "0 bytes"),
    (raw(lambda content: content[:7]), WEIGHTS, "7 bytes"),
    (raw(lambda content: content[:200]), WEIGHTS, INCOMPLETE),
    (raw(lambda content: content[:-1]), WEIGHTS, INCOMPLETE),
    (raw(lambda content: content + b"\n"), WEIGHTS, INCOMPLETE),
    (raw(lambda content: pickle.dumps([1.0] * 99)), WEIGHTS, INCOMPLETE),
    (raw(lambda content: LFS), WEIGHTS, "git-LFS pointer"),
    (raw(lambda content: b"<!DOCTYPE html>\n<html><body>404</body></html>"), WEIGHTS, "HTML"),
    (raw(lambda content: b"PK\x03\x04" + content), WEIGHTS, "zip archive"),
    *((length(number), WEIGHTS, INCOMPLETE) for number in (0, 10**5, 10**8 + 1, 2**63, 2**64 - 1)),
    *((header(text), WEIGHTS, INCOMPLETE) for text in (b"{" + b"x" * 79, b"[]", b"{\xff}", b'{"a":' + b"[" * 100_000)),
    (query(data_offsets=[0, 2304]), WEIGHTS, INCOMPLETE),
    *((query(shape=shape), WEIGHTS, INCOMPLETE) for shape in ([2**33, 2**33], [-24, -24], [24.0, 24], 5, None)),
    *((query(data_offsets=row), WEIGHTS, INCOMPLETE) for row in ([0], [2304, 0], [-1, 2303], "0 1", {})),
    (query(dtype="F64"), WEIGHTS, INCOMPLETE),
    (query(dtype="F33"), WEIGHTS, f"'{QUERY}': expected dtype"),
    (query(dtype=["F32"]), WEIGHTS, INCOMPLETE),
    (query(extra=1), WEIGHTS, INCOMPLETE),
    (header(lambda entries: entries.pop(QUERY) and None), WEIGHTS, INCOMPLETE),
    (header(lambda entries: entries | {"__metadata__": {"format": 1}}), WEIGHTS, INCOMPLETE),
    (header(twice), WEIGHTS, f"the key '{QUERY}' appears twice"),
    *((tensor(torch.zeros(2), name), WEIGHTS, f"{name!r}: {UNEXPECTED}") for name in NAMES),
    *((tensor(torch.zeros(shape)), WEIGHTS, shape_error(shape)) for shape in ((24, 23), (576,), (0, 24))),
    (tensor(torch.ones(24, 24, dtype=torch.int32)), WEIGHTS, f"'{QUERY}': expected dtype"),
    (tensor(torch.ones(24, 24).to(torch.float8_e4m3fn)), WEIGHTS, "found F8_E4M3"),
    (filled(torch.nan, torch.float32), WEIGHTS, f"'{QUERY}': expected finite"),
    (filled(-torch.inf, torch.float16), WEIGHTS, f"'{QUERY}': expected finite"),
    (filled(1e300, torch.float64), WEIGHTS, f"'{QUERY}': expected finite"),  # becomes infinite as float32
    (tensor(torch.zeros(3, 24), "qa_outputs.weight"), WEIGHTS, "'qa_outputs.weight': expected shape (2, 24)"),
    (tensor(None), "", f"{QUERY}: tensor not found"),
    (tensor(torch.zeros(24), NORM + "gamma"), WEIGHTS, f"expected one tensor for {NORM_0}"),
    (tensor(torch.zeros(24, 24), QUERY.removeprefix("bert.")), WEIGHTS, "expected one tensor for encoder.layers.1.att"),
    (config(hidden_size=60_000), WEIGHTS, "as in config.json"),
    (config(vocab_size=9_999_999), WEIGHTS, "expected shape (9999999, 24)"),
    (lambda folder: (folder / "config.json").unlink(), "config.json", "file not found"),
    (lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS, "file not found"),
    *((word_in(shard), INDEX, ASIDE) for shard in SHARDS),
    (word_in("b.safetensors"), "b.safetensors", f"'{WORD}': tensor not found"),
    (word_in("config.json"), "config.json", INCOMPLETE),
    (index(with_evil), "a.safetensors", f"'evil': {UNEXPECTED}"),
    (index(lambda folder, found: (folder / "a.safetensors").write_bytes(b"1") and None), "a.safetensors", "1 bytes"),
    *((index(lambda *_, text=text: text), INDEX, "expected an object") for text in ("[1]", "{}", '{"weight_map": {}}')),
]


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as raised:
        load_model(folder)
    assert str(raised.value).isprintable()
    return str(raised.value)


@pytest.mark.parametrize("change, file, words", BROKEN)
def test_a_broken_folder_is_refused_in_one_line_that_names_the_file_and_the_cause(folder, change, file, words):
    change(folder)
    message = refusal(folder)
    assert message.startswith(f"{folder / file}: ") and words in message


def linked(folder: Path) -> None:
    """As in the hub's cache."""
    (folder / WEIGHTS).rename(folder.parent / "blob")
    (folder / WEIGHTS).symlink_to(folder.parent / "blob")


def begins_as_html(folder: Path) -> None:
    """The length of the header is the first byte: 60 is "<"."""
    header(lambda entries: json.dumps(entries) + " " * ((60 - len(json.dumps(entries))) % 256))(folder)
    assert (folder / WEIGHTS).read_bytes()[:1] == b"<"


UNUSUAL = {
    "nothing": lambda folder: None,
    "shards": index(),
    "a tensor that the index does not list": index(lambda folder, found: found.pop(WORD) and None),
    "no metadata": header(lambda entries: entries.pop("__metadata__") and None),
    "metadata": header(lambda entries: entries | {"__metadata__": {"format": "pt", "title": "<script>"}}),
    "the first byte of HTML": begins_as_html,
    "a link": linked,
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_folder_is_loaded(folder, tiny_folder, name):
    UNUSUAL[name](folder)
    model, expected = load_model(folder), load_model(tiny_folder).state_dict()
    assert not model.new_parameters
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "checkpoint.pth", "model.ckpt", "tf_model.h5"])
def test_a_pickle_is_never_opened(folder, name, tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    (folder / name).write_bytes(pickle.dumps(Payload()))
    pickle.loads((folder / name).read_bytes())  # the payload works
    (tmp_path / "touched").unlink()
    (folder / WEIGHTS).unlink()
    assert refusal(folder).startswith(f"{folder / WEIGHTS}: file not found; {name} is never opened")
    assert "convert it" in refusal(folder) and ('python -c "import' in refusal(folder)) == (name == "pytorch_model.bin")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model-00001-of-00002.safetensors", "download model.safetensors.index.json too"),
        ("adapter_model.safetensors", "merge it into its base model"),
    ],
)
def test_weights_that_need_another_file_say_so(folder, name, says):
    (folder / WEIGHTS).rename(folder / name)
    assert name in refusal(folder) and says in refusal(folder)


@pytest.mark.parametrize(
    ("name", "says"), [("adapter_config.json", "merge it into its base model"), ("x.gguf", "GGUF is not read")]
)
def test_a_folder_of_another_kind_without_a_config_says_what_it_is(folder, name, says):
    (folder / "config.json").rename(folder / name)
    assert refusal(folder).startswith(f"{folder / 'config.json'}: file not found") and says in refusal(folder)


def empty_tensors(names, shape="0"):
    entry = f'{{"dtype": "F32", "shape": [{shape}], "data_offsets": [0, 0]}}'
    text = "{" + ",".join(f'"t{name}":{entry}' for name in names) + "}"
    return raw(lambda content: struct.pack("<Q", len(text)) + text.encode())


HOSTILE = {
    "a deep model": config(num_hidden_layers=1000),
    "a wide model": config(hidden_size=65_536, vocab_size=10**7, intermediate_size=10**6, num_attention_heads=1),
    "a header of 100 MB": raw(lambda content: struct.pack("<Q", 10**8) + b"{" + b" " * (10**8 - 2) + b"}"),
    "50,000 tensors": empty_tensors([*range(50_000)]),
    "the last of 15,000 tensors twice": empty_tensors([*range(15_000), 14_999]),
    "a name of a million characters": empty_tensors(["_head" * 200_000]),
    "a shape of four million numbers": empty_tensors("a", "9," * 4_000_000 + "0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sizes_are_refused_in_bounded_time_and_memory(folder, name):
    resource = pytest.importorskip("resource")
    HOSTILE[name](folder)
    begin, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(folder)
    assert time.process_time() - begin < 10  # a search through all names for each name would take minutes
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < 500 * 2**20


# ---- the file changes, or is none


def test_a_file_that_is_rewritten_or_truncated_after_loading_does_not_change_the_model(folder, tiny_folder):
    model, expected = load_model(folder), load_model(tiny_folder).state_dict()
    file = folder / WEIGHTS
    with open(file, "r+b") as opened:
        opened.write(b"\xff" * file.stat().st_size)
        opened.truncate(100)  # of a mapped file, reading the pages behind this would end the process with SIGBUS
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    mapped = Path("/proc/self/maps")
    assert not mapped.exists() or str(folder) not in mapped.read_text("utf-8", errors="replace")


def replaced(file: Path) -> None:
    shutil.copy(file, file.with_suffix(".new"))
    os.replace(file.with_suffix(".new"), file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: os.truncate(file, file.stat().st_size - 1),
        lambda file: os.truncate(file, 0),
        lambda file: os.utime(file, ns=(0, 0)),  # as every write does
        replaced,
    ],
)
def test_a_file_that_changes_while_it_is_read_is_refused(folder, change):
    opened = WeightFile(folder / WEIGHTS)
    change(folder / WEIGHTS)
    with pytest.raises(BadInput, match="the file changed while it was read"):
        opened.read(QUERY, torch.Size((24, 24)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFO")
def test_a_fifo_or_a_folder_in_place_of_the_weights_is_refused_at_once(folder):
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    assert refusal(folder).startswith(f"{folder / WEIGHTS}: expected a regular file")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    assert refusal(folder).startswith(f"{folder / WEIGHTS}: expected a regular file")


LOAD_IN_3_GB = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)
from minibert.model.weights import load_model
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load_model(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and ru_maxrss are as Linux has them")
def test_bert_base_is_loaded_in_3_gb_of_addresses_and_in_the_memory_of_its_weights(tmp_path, tokenizer):
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    model = BertForQuestionAnswering(BertConfig(vocab_size=30_522, max_position_embeddings=512, **sizes))
    save_model(model, tokenizer, tmp_path)
    done = run("-c", LOAD_IN_3_GB, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.15 * (tmp_path / WEIGHTS).stat().st_size


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_saved_file_has_the_permissions_of_any_new_file_and_says_that_it_is_torchs(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_tensors({"a": torch.ones(2)}, tmp_path / WEIGHTS)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / WEIGHTS).stat().st_mode & 0o777 == mode
    assert b'"__metadata__":{"format":"pt"}' in (tmp_path / WEIGHTS).read_bytes()
