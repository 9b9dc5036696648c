"""Folders of other programs: which folder is the model, and a conversion command that works as it is printed."""

import shlex
import subprocess
import sys

import pytest

from minibert.support.errors import BadInput
from minibert.support.hub import find_folder
from minibert.support.layouts import conversion
from tests.builders import ROOT, write_folder

TRANSFORMER = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
OF_2019 = TRANSFORMER | {"type": "sentence_transformers.models.BERT"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
FILES = {"0_Transformer/config.json": {}, "1_Pooling/config.json": {}, "README.md": b""}


@pytest.mark.parametrize("modules", [[TRANSFORMER, POOLING], [POOLING, TRANSFORMER], [OF_2019, POOLING]])
def test_modules_json_leads_to_the_encoder(tmp_path, modules):
    assert find_folder(write_folder(tmp_path, FILES | {"modules.json": modules})) == tmp_path / "0_Transformer"


@pytest.mark.parametrize("modules", [[TRANSFORMER | {"path": ""}], [POOLING], [], {}, None, ["x"]])
def test_a_modules_json_without_a_folder_for_the_encoder_changes_nothing(tmp_path, modules):
    assert find_folder(write_folder(tmp_path, FILES | {"modules.json": modules})) == tmp_path


@pytest.mark.parametrize("path", ["../outside", "..", "0_Transformer/..", "gone", "a\0b", "/", ["0_Transformer"], 7])
def test_modules_json_does_not_lead_out_of_the_folder(tmp_path, path):
    write_folder(tmp_path / "outside", {"config.json": {}})
    folder = write_folder(tmp_path / "model", FILES | {"modules.json": [TRANSFORMER | {"path": path}]})
    with pytest.raises(BadInput, match=r"modules\.json: path: expected a folder beside this file, found .*; download"):
        find_folder(folder)


@pytest.mark.parametrize("name", ["model", 'it\'s "a" $model [1]'])
def test_the_conversion_command_converts_all_pickled_shards(tmp_path, name):
    """As the user runs it: tensors that share memory (a tied decoder) are the case that save_file refuses."""
    torch, load_file = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch").load_file
    word = torch.arange(6.0).reshape(2, 3)
    (folder := tmp_path / name).mkdir()
    torch.save({"word": word, "decoder": word, "across": word.t()}, folder / "pytorch_model-00001-of-00002.bin")
    torch.save({"bias": word[0]}, folder / "pytorch_model-00002-of-00002.bin")
    python, *words = shlex.split(conversion(folder))
    assert python == "python" and not set('"$`\\!') & set(words[1])  # a shell changes none of it in double quotes
    subprocess.run([sys.executable, *words], check=True, cwd=ROOT)
    converted = load_file(folder / "model.safetensors")
    assert converted.keys() == {"word", "decoder", "across", "bias"}
    assert torch.equal(converted["across"], word.t()) and torch.equal(converted["decoder"], word)
