"""Published layouts against `transformers`, planted faults that the comparison must see, round trips, broken files."""

import json
import os
import pickle
import shutil
import struct
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import drawn, tiny_config
from safetensors.torch import load_file, save_file

from minibert.errors import BadInput
from minibert.model import BertForQuestionAnswering
from minibert.tokenizer import load_tokenizer
from minibert.weights import load_model, load_with_report, save_model

# Sizes that are all different: a swapped axis cannot pass. V 97, D 30, H 5, layers 4, F 52, positions 41, B 3, T 17.
BERT = {
    "vocab_size": 97,
    "hidden_size": 30,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "intermediate_size": 52,
    "max_position_embeddings": 41,
    "type_vocab_size": 2,
    "initializer_range": 0.63,  # a new head's logits must spread too
}
DISTILBERT = {
    "vocab_size": 97,
    "dim": 30,
    "n_layers": 4,
    "n_heads": 5,
    "hidden_dim": 52,
    "max_position_embeddings": 41,
    "initializer_range": 0.63,
}
TOLERANCE = 1e-5  # on logits whose standard deviation is 1 or more
HEAD = ["span_head.weight", "span_head.bias"]


# ---- building published layouts with `transformers` --------------------------------------------------------------


def built(class_name: str) -> torch.nn.Module:
    """A `transformers` model drawn so that its logits spread, yet hold little float32 noise."""
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, class_name)
    model = drawn(cls(cls.config_class(**(DISTILBERT if "Distil" in class_name else BERT))), seed=2)
    for name, parameter in model.named_parameters():
        if "_embeddings" in name:
            parameter.data *= 0.04  # the eps of a LayerNorm shows only where the variance is small
        elif parameter.dim() == 2:
            parameter.data *= 2.3 if "qa_outputs" in name else 0.67
    return model


def written(model: torch.nn.Module, folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """A model folder with exactly these tensors."""
    model.config.save_pretrained(folder)
    save_file({name: tensor.detach().clone() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def old_norm_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    result = {}
    for name, tensor in state.items():
        for new, old in renamed.items():
            name = name.replace(new, old)
        result[name] = tensor
    return result


def pretrained_bert(folder: Path, spelling) -> Path:
    model = built("BertForPreTraining")
    # The decoder is the word embeddings' matrix and is not stored a second time.
    state = {name: tensor for name, tensor in model.state_dict().items() if "decoder" not in name}
    return written(model, folder, spelling(state))


def whole_word_masking_squad(folder: Path) -> Path:
    model = built("BertForQuestionAnswering")
    pooler = {f"bert.pooler.dense.{name}": tensor for name, tensor in torch.nn.Linear(30, 30).state_dict().items()}
    return written(model, folder, model.state_dict() | pooler)


def pretrained_distilbert(folder: Path) -> Path:
    model = built("DistilBertForMaskedLM")
    state = model.state_dict()
    del state["vocab_projector.weight"]  # the word embeddings' matrix again
    return written(model, folder, state)


def question_answering(folder: Path, class_name: str, dtype=torch.float32) -> Path:
    model = built(class_name)
    return written(model, folder, {name: tensor.to(dtype) for name, tensor in model.state_dict().items()})


def bare_encoder(folder: Path) -> Path:
    model = built("BertModel")
    return written(model, folder, model.state_dict() | {"embeddings.position_ids": torch.arange(41)[None]})


def sharded(folder: Path) -> Path:
    built("BertForQuestionAnswering").save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


PREDICTIONS = [
    "cls.predictions.bias",
    "cls.predictions.transform.dense.weight",
    "cls.predictions.transform.dense.bias",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
]
POOLER = ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
NORM = "cls.predictions.transform.LayerNorm."
VOCAB = ["vocab_transform.weight", "vocab_transform.bias", "vocab_layer_norm.weight", "vocab_layer_norm.bias"]
# published layout -> (its folder, our new parameters, the ignored tensors)
LAYOUTS = {
    "bert-base-uncased": (
        partial(pretrained_bert, spelling=old_norm_names),
        HEAD,
        [*PREDICTIONS, *POOLER, NORM + "gamma", NORM + "beta"],
    ),
    "bert-base-cased": (
        partial(pretrained_bert, spelling=dict),
        HEAD,
        [*PREDICTIONS, *POOLER, NORM + "weight", NORM + "bias"],
    ),
    "bert-large-uncased-whole-word-masking-finetuned-squad": (whole_word_masking_squad, [], POOLER),
    "distilbert-base-uncased": (pretrained_distilbert, HEAD, [*VOCAB, "vocab_projector.bias"]),
    "distilbert-base-cased-distilled-squad": (
        partial(question_answering, class_name="DistilBertForQuestionAnswering"),
        [],
        [],
    ),
    "all-MiniLM-L6-v2": (
        bare_encoder,
        HEAD,
        ["embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"],
    ),
    "float16": (
        partial(question_answering, class_name="BertForQuestionAnswering", dtype=torch.float16),
        [],
        [],
    ),
    "bfloat16": (
        partial(question_answering, class_name="DistilBertForQuestionAnswering", dtype=torch.bfloat16),
        [],
        [],
    ),
    "sharded": (sharded, [], []),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """layout -> its folder, each built once."""
    folders = {}

    def folder(layout: str) -> Path:
        if layout not in folders:
            folders[layout] = LAYOUTS[layout][0](tmp_path_factory.mktemp("published"))
        return folders[layout]

    return folder


# ---- the same logits ---------------------------------------------------------------------------------------------


def padded_batch(vocab_size: int = 97) -> dict[str, torch.Tensor]:
    """(3, 17): windows of 17, 11 and 6 tokens, the last part of each of type 1."""
    lengths, tokens = torch.tensor([17, 11, 6])[:, None], torch.arange(17)[None]
    ids = torch.randint(1, vocab_size, (3, 17), generator=torch.Generator().manual_seed(2))
    mask = (tokens < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": mask * (tokens >= lengths // 3)}


@torch.no_grad()
def our_logits(model: BertForQuestionAnswering, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(2, real tokens): start and end logits."""
    return torch.stack(model(**batch))[:, batch["attention_mask"].bool()]


@torch.no_grad()
def their_logits(folder: Path, batch: dict[str, torch.Tensor], ours: BertForQuestionAnswering) -> torch.Tensor:
    """The same by `transformers`, with our head's values where the folder has none."""
    import transformers

    cls = getattr(transformers, ours.config.to_json()["architectures"][0])
    model, report = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert set(report["missing_keys"]) == {name.replace("span_head", "qa_outputs") for name in ours.new_parameters}
    model.qa_outputs.load_state_dict(ours.span_head.state_dict())
    if ours.config.model_type == "distilbert":
        batch = {name: tensor for name, tensor in batch.items() if name != "token_type_ids"}
    output = model.eval()(**batch)
    return torch.stack([output.start_logits, output.end_logits])[:, batch["attention_mask"].bool()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_gives_the_logits_of_transformers(layout, published):
    torch.manual_seed(0)
    model = load_model(published(layout))
    expected = their_logits(published(layout), padded_batch(), model)
    assert expected.std() >= 1
    assert (our_logits(model, padded_batch()) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_load_accounts_for_every_tensor(layout, published):
    _, new, ignored = LAYOUTS[layout]
    model, report = load_with_report(published(layout))
    assert report.loaded == [name for name in model.state_dict() if name not in new]
    assert report.new == model.new_parameters == new
    assert sorted(report.ignored) == sorted(ignored)
    assert str(report).startswith(f"loaded {len(report.loaded)} tensors, new {len(new)}")
    assert all(parameter.dtype is torch.float32 and parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def tanh_gelu(model):
    for layer in model.encoder.layers:
        part = layer.feed_forward
        part.forward = lambda x, part=part: part.contract(F.gelu(part.expand(x), approximate="tanh"))


def large_eps(model):
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5


def no_token_types(model):
    forward = model.embeddings.forward
    model.embeddings.forward = lambda input_ids, token_type_ids: forward(input_ids, None)


def no_mask(model):
    forward = model.encoder.forward
    model.encoder.forward = lambda hidden_states, mask: forward(hidden_states, None)


def pre_norm(model):
    for layer in model.encoder.layers:

        def forward(x, mask, layer=layer):
            x = x + layer.attention(layer.attention_norm(x), mask)
            return x + layer.feed_forward(layer.feed_forward_norm(x))

        layer.forward = forward


def swapped_logits(model):
    forward = model.span_head.forward
    model.span_head.forward = lambda x: forward(x).flip(-1)


FAULTS = [tanh_gelu, large_eps, no_token_types, no_mask, pre_norm, swapped_logits]
FAULTY = [("sharded", fault) for fault in FAULTS]  # a BERT
FAULTY += [("distilbert-base-cased-distilled-squad", fault) for fault in FAULTS if fault is not no_token_types]


@pytest.mark.parametrize(("layout", "fault"), FAULTY, ids=[f"{layout}-{fault.__name__}" for layout, fault in FAULTY])
def test_the_comparison_sees_a_planted_fault(layout, fault, published):
    model = load_model(published(layout))
    expected = their_logits(published(layout), padded_batch(), model)
    fault(model)
    assert (our_logits(model, padded_batch()) - expected).abs().max() > 100 * TOLERANCE


def test_a_new_head_is_drawn_from_torchs_generator(published):
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        heads.append(load_model(published("bert-base-cased")).span_head)
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)
    assert 0.4 < heads[0].weight.std() < 0.9 and not heads[0].bias.any()


# ---- save and load -----------------------------------------------------------------------------------------------

KINDS = {
    "bert": tiny_config(),
    "distilbert": tiny_config(model_type="distilbert", type_vocab_size=0, qa_dropout=0.1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_a_saved_folder(tmp_path, kind, tokenizer):
    transformers = pytest.importorskip("transformers")
    model, batch = drawn(BertForQuestionAnswering(KINDS[kind])), padded_batch(KINDS[kind].vocab_size)
    model.span_head.weight.data *= 2  # so that the logits spread here too
    save_model(model, tokenizer, tmp_path)
    architecture = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    _, report = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    expected = their_logits(tmp_path, batch, model)
    assert expected.std() >= 1
    assert (our_logits(model, batch) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_a_saved_tokenizer_the_same_way(tmp_path, kind, tokenizer):
    transformers = pytest.importorskip("transformers")
    save_model(BertForQuestionAnswering(KINDS[kind]), tokenizer, tmp_path)
    text = "Who built the Iron clock-tower café in 1871?"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)(text, add_special_tokens=False)["input_ids"]
    assert theirs == tokenizer.encode([text]).ids.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_keep_every_bit(tmp_path, kind, tokenizer):
    model = drawn(BertForQuestionAnswering(KINDS[kind]))
    save_model(model, tokenizer, tmp_path / "first")
    first = load_model(tmp_path / "first")
    save_model(first, load_tokenizer(tmp_path / "first"), tmp_path / "second")
    second = load_model(tmp_path / "second")
    assert model.config == first.config == second.config
    assert not first.new_parameters
    for name, value in model.state_dict().items():
        assert torch.equal(first.state_dict()[name], value) and torch.equal(second.state_dict()[name], value)
    assert (tmp_path / "first/model.safetensors").read_bytes() == (tmp_path / "second/model.safetensors").read_bytes()


def test_a_model_can_be_saved_over_the_folder_it_came_from(tmp_path, tiny_folder):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    model = load_model(folder)
    save_model(model, load_tokenizer(folder), folder)
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (tiny_folder / name).read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), load_model(tiny_folder).parameters()))


def test_half_precision_weights_are_saved_as_float32(tmp_path, tokenizer):
    save_model(drawn(BertForQuestionAnswering(tiny_config())).half(), tokenizer, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


def test_tokenizer_files_are_copied_byte_for_byte(tmp_path, tokenizer, vocab_folder):
    contents = {
        "tokenizer.json": json.dumps(json.loads(tokenizer.backend.to_str()), indent=3).encode() + b"\n\n",
        "vocab.txt": (vocab_folder / "vocab.txt").read_bytes().replace(b"\n", b"\r\n"),
        "tokenizer_config.json": b'{"do_lower_case":   true}',
        "special_tokens_map.json": b'{"sep_token" :"[SEP]"}\r\n',
    }
    (tmp_path / "source").mkdir()
    for name, content in contents.items():
        (tmp_path / "source" / name).write_bytes(content)
    save_model(BertForQuestionAnswering(tiny_config()), load_tokenizer(tmp_path / "source"), tmp_path / "runs" / "copy")
    assert {name: (tmp_path / "runs" / "copy" / name).read_bytes() for name in contents} == contents


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_saved_files_have_the_mode_that_the_umask_asks_for(tmp_path, umask, mode, tokenizer):
    before = os.umask(umask)
    try:
        save_model(BertForQuestionAnswering(tiny_config()), tokenizer, tmp_path)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        name: mode for name in ("model.safetensors", "config.json", "vocab.txt", "tokenizer_config.json")
    }


def test_a_saved_header_says_that_the_tensors_are_torchs(tiny_folder):
    header, _ = parts(tiny_folder / "model.safetensors")
    assert header["__metadata__"] == {"format": "pt"}


# ---- broken folders ----------------------------------------------------------------------------------------------

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WORD = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"
NORM_0 = "bert.encoder.layer.0.output.LayerNorm."


def parts(file: Path) -> tuple[dict, bytes]:
    """The header and the data of a safetensors file, read by hand."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def assemble(file: Path, header: str | bytes, data: bytes, length: int | None = None) -> None:
    header = header.encode() if isinstance(header, str) else header
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def with_bytes(change):
    """A fault of the weights' bytes."""

    def fault(folder: Path) -> None:
        file = folder / WEIGHTS
        file.write_bytes(change(file.read_bytes()))

    return fault


def with_tensors(change):
    """A fault of the tensors, in a file that is itself well formed."""

    def fault(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return fault


def with_header(change):
    """A fault of the header's text."""

    def fault(folder: Path) -> None:
        header, data = parts(folder / WEIGHTS)
        assemble(folder / WEIGHTS, change(header), data)

    return fault


def with_index(change):
    """A fault of an index over two shards, `a.safetensors` and `b.safetensors`."""

    def fault(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        shards = {"a.safetensors": [WORD, QUERY], "b.safetensors": [*state.keys() - {WORD, QUERY}]}
        for file, names in shards.items():
            save_file({name: state[name] for name in names}, folder / file)
        index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
        index = change(folder, index) or index
        (folder / INDEX).write_text(json.dumps(index), "utf-8")

    return fault


def word_in(file):
    """An index that looks for the word embeddings in another file."""
    return lambda folder, index: index["weight_map"].update({WORD: file(folder) if callable(file) else file})


def moved_outside(folder: Path) -> Path:
    """A whole shard that a loader would find if it followed the path."""
    return shutil.copy(folder / "a.safetensors", folder.parent / "outside.safetensors")


def outside_by_path(folder: Path) -> str:
    moved_outside(folder)
    return "../outside.safetensors"


def twice_in_header(header: dict) -> str:
    text = json.dumps(header)
    return text[:-1] + f", {json.dumps(QUERY)}: {json.dumps(header[QUERY])}" + "}"


def relabelled(dtype: str):
    """The same bytes under another dtype."""

    def change(header: dict) -> str:
        header[QUERY]["dtype"] = dtype
        return json.dumps(header)

    return with_header(change)


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def config_with(**changes):
    def fault(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return fault


def unused_shard_tensor(folder: Path, index: dict) -> None:
    save_file(load_file(folder / "a.safetensors") | {"evil": torch.zeros(2)}, folder / "a.safetensors")
    index["weight_map"]["evil"] = "a.safetensors"


NOT_WHOLE = "is not a whole safetensors file"
# what is wrong -> (how the folder gets so, the file that the message names, words that it holds)
BROKEN = {
    "empty": (with_bytes(lambda raw: b""), WEIGHTS, NOT_WHOLE),
    "7 bytes": (with_bytes(lambda raw: raw[:7]), WEIGHTS, "7 bytes"),
    "cut in the header": (with_bytes(lambda raw: raw[:200]), WEIGHTS, NOT_WHOLE),
    "cut in the data": (with_bytes(lambda raw: raw[:-1]), WEIGHTS, NOT_WHOLE),
    "one byte too many": (with_bytes(lambda raw: raw + b"\n"), WEIGHTS, NOT_WHOLE),
    "git-LFS pointer": (
        with_bytes(lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133466304\n"),
        WEIGHTS,
        "git-LFS pointer",
    ),
    "HTML": (with_bytes(lambda raw: b"<!DOCTYPE html>\n<html><body>404</body></html>"), WEIGHTS, "HTML"),
    "zip": (with_bytes(lambda raw: b"PK\x03\x04" + raw), WEIGHTS, "zip archive"),
    "header length 2^63": (with_bytes(lambda raw: struct.pack("<Q", 2**63) + raw[8:]), WEIGHTS, NOT_WHOLE),
    "header length 10^8 + 1": (with_bytes(lambda raw: struct.pack("<Q", 10**8 + 1) + raw[8:]), WEIGHTS, NOT_WHOLE),
    "header length 0": (with_bytes(lambda raw: bytes(8) + raw[8:]), WEIGHTS, NOT_WHOLE),
    "header not JSON": (with_header(lambda header: "{" + "x" * 79), WEIGHTS, NOT_WHOLE),
    "header a list": (with_header(lambda header: "[]"), WEIGHTS, NOT_WHOLE),
    "header not UTF-8": (with_header(lambda header: b"{\xff}" + b" " * 60), WEIGHTS, NOT_WHOLE),
    "header nested 10,000 deep": (with_header(lambda header: '{"a":' + "[" * 10_000), WEIGHTS, NOT_WHOLE),
    "a name twice": (with_header(twice_in_header), WEIGHTS, f"'{QUERY}': stands twice in the header"),
    "unknown tensor": (
        with_tensors(lambda state: state.update({"bert.evil\n../x": torch.zeros(2)})),
        WEIGHTS,
        r"'bert.evil\n../x': is a tensor that this model has no place for",
    ),
    "a layer too many": (
        with_tensors(lambda state: state.update({QUERY.replace("layer.1", "layer.2"): state[QUERY].clone()})),
        WEIGHTS,
        f"'{QUERY.replace('layer.1', 'layer.2')}': is a tensor that this model has no place for",
    ),
    "wrong shape": (
        with_tensors(lambda state: state.update({QUERY: torch.zeros(24, 23)})),
        WEIGHTS,
        f"'{QUERY}': has shape (24, 23), not (24, 24)",
    ),
    "wrong rank": (
        with_tensors(lambda state: state.update({QUERY: torch.zeros(24 * 24)})),
        WEIGHTS,
        f"'{QUERY}': has shape (576,), not (24, 24)",
    ),
    "zero-size tensor": (
        with_tensors(lambda state: state.update({QUERY: torch.zeros(0, 24)})),
        WEIGHTS,
        f"'{QUERY}': has shape (0, 24), not (24, 24)",
    ),
    "integer tensor": (
        with_tensors(lambda state: state.update({QUERY: torch.ones(24, 24, dtype=torch.int32)})),
        WEIGHTS,
        f"'{QUERY}': has dtype I32",
    ),
    "8-bit tensor": (
        with_tensors(lambda state: state.update({QUERY: torch.ones(24, 24).to(torch.float8_e4m3fn)})),
        WEIGHTS,
        f"'{QUERY}': has dtype F8_E4M3",
    ),
    "dtype that fits no bytes": (relabelled("F64"), WEIGHTS, NOT_WHOLE),
    "dtype that nobody knows": (relabelled("F33"), WEIGHTS, NOT_WHOLE),
    "NaN": (with_tensors(lambda state: state[QUERY][3, 4:5].fill_(torch.nan)), WEIGHTS, f"'{QUERY}': holds values"),
    "infinity": (with_tensors(lambda state: state[QUERY][0, :1].fill_(-torch.inf)), WEIGHTS, f"'{QUERY}': holds"),
    "float64 beyond float32": (
        with_tensors(lambda state: state.update({QUERY: torch.full((24, 24), 1e300, dtype=torch.float64)})),
        WEIGHTS,
        f"'{QUERY}': holds",
    ),
    "missing encoder tensor": (
        with_tensors(lambda state: state.pop(QUERY)),
        "",
        "query.weight: is not in the weights",
    ),
    "both spellings of a norm": (
        with_tensors(lambda state: state.update({NORM_0 + "gamma": state[NORM_0 + "weight"].clone()})),
        WEIGHTS,
        "is a second tensor for encoder.layers.0.feed_forward_norm.weight",
    ),
    "with and without prefix": (
        with_tensors(lambda state: state.update({QUERY.removeprefix("bert."): state[QUERY].clone()})),
        WEIGHTS,
        "is a second tensor for encoder.layers.1.attention.query.weight",
    ),
    "config wider than the weights": (config_with(hidden_size=60_000), WEIGHTS, "as in config.json"),
    "config of more words": (
        config_with(vocab_size=9_999_999),
        WEIGHTS,
        f"'{WORD}': has shape ({tiny_config().vocab_size}, 24), not (9999999, 24)",
    ),
    "no config": (without_config, "config.json", "no such file"),
    "no weights": (without_weights, WEIGHTS, "no such file"),
    "shard outside by path": (with_index(word_in(outside_by_path)), INDEX, "must name a file beside the index"),
    "shard outside by absolute path": (
        with_index(word_in(lambda folder: str(moved_outside(folder)))),
        INDEX,
        "must name a file beside the index",
    ),
    "absolute path of a shard inside": (
        with_index(word_in(lambda folder: str(folder / "a.safetensors"))),
        INDEX,
        "must name a file beside the index",
    ),
    "shard ..": (with_index(word_in("..")), INDEX, "must name a file beside the index"),
    "shard with a NUL": (with_index(word_in("a\0.safetensors")), INDEX, "must name a file beside the index"),
    "shard with an endless name": (with_index(word_in("a" * 5000)), INDEX, "must name a file beside the index"),
    "shard missing": (with_index(word_in("c.safetensors")), INDEX, "'c.safetensors'"),
    "shard a number": (with_index(word_in(3)), INDEX, "must name a file beside the index"),
    "tensor not in its shard": (
        with_index(word_in("b.safetensors")),
        "b.safetensors",
        f"'{WORD}': is listed in the index, but not in this file",
    ),
    "unknown tensor in a shard": (with_index(unused_shard_tensor), "a.safetensors", "'evil': is a tensor that"),
    "shard truncated": (
        with_index(lambda folder, index: (folder / "a.safetensors").write_bytes(b"\0" * 7) and None),
        "a.safetensors",
        NOT_WHOLE,
    ),
    "index a list": (with_index(lambda folder, index: [index]), INDEX, "expected an object"),
    "index without a map": (with_index(lambda folder, index: {"metadata": {}}), INDEX, "expected an object"),
    "index with an empty map": (with_index(lambda folder, index: {"weight_map": {}}), INDEX, "expected an object"),
}


@pytest.fixture
def folder(tmp_path, tiny_folder) -> Path:
    """A whole model folder, to be spoiled."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_refused_in_one_line_that_names_the_file_and_the_cause(folder, fault):
    spoil, file, words = BROKEN[fault]
    load_model(folder)
    spoil(folder)
    message = refusal(folder)
    assert message.startswith(f"{folder / file}: ") and words in message


def test_the_index_of_the_broken_ones_is_whole_before_it_is_spoiled(folder, tiny_folder):
    with_index(lambda folder, index: None)(folder)
    assert not (folder / WEIGHTS).exists()
    expected = load_model(tiny_folder).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_model(folder).state_dict().items())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "checkpoint.pth", "model.ckpt"])
def test_a_pickle_is_never_opened(folder, name, tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    (folder / name).write_bytes(pickle.dumps(Payload()))
    pickle.loads((folder / name).read_bytes())  # the payload is live
    (tmp_path / "touched").unlink()

    (folder / WEIGHTS).unlink()
    assert refusal(folder) == f"{folder / WEIGHTS}: no such file; {name} is never opened: convert it to safetensors"
    assert not (tmp_path / "touched").exists()


def test_metadata_may_be_absent_or_strange(folder):
    header, data = parts(folder / WEIGHTS)
    for metadata in ({}, {"__metadata__": {"format": "pt", "title": "<script>"}}):
        header.pop("__metadata__", None)
        assemble(folder / WEIGHTS, json.dumps(metadata | header), data)
        assert not load_model(folder).new_parameters


def test_a_header_of_any_length_is_read(folder):
    # Its length is the file's first byte: 60 is "<", with which HTML begins too. Padding to 8 bytes is optional.
    header, data = parts(folder / WEIGHTS)
    text = json.dumps(header)
    assemble(folder / WEIGHTS, text + " " * ((60 - len(text)) % 256), data)
    assert (folder / WEIGHTS).read_bytes()[:1] == b"<"
    assert not load_model(folder).new_parameters


def test_a_weights_file_may_be_a_link_as_in_the_hubs_cache(folder, tmp_path):
    (folder / WEIGHTS).rename(tmp_path / "blob")
    (folder / WEIGHTS).symlink_to(tmp_path / "blob")
    assert not load_model(folder).new_parameters
