"""The device and dtype that follow from the flags, the processor and torch; what a machine cannot do is refused."""

import ctypes
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from minibert.support import machine
from minibert.support.errors import BadInput
from minibert.support.machine import Machine, best_dtype, choose_machine, has_fast_bfloat16, keep_memory
from tests.builders import run

CPU = torch.device("cpu")
X86, AMX, ARM = {"fpu", "avx2", "avx512f", "avx512_bf16"}, {"amx_bf16", "amx_tile"}, {"asimd", "bf16"}
NO_BFLOAT16 = {"fpu", "avx2", "avx512f", "amx_tile"}


@pytest.fixture
def processor(monkeypatch):
    """Set what /proc/cpuinfo, torch and oneDNN say about the processor."""

    def describe(features: set[str], level: str = "AVX512", onednn: bool = True, torch_says: bool = False) -> None:
        monkeypatch.setattr(machine, "processor_flags", lambda: features)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: torch_says, raising=False)
        ops = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: onednn)
        monkeypatch.setattr(torch.ops, "mkldnn", ops, raising=False)

    return describe


@pytest.mark.parametrize(
    ("features", "words", "is_fast"),
    [
        (X86, {}, True),
        (AMX, {}, True),
        (ARM, {"level": "DEFAULT"}, True),
        (ARM, {"level": "SVE256"}, True),
        (set(), {"torch_says": True}, True),  # Windows has no /proc/cpuinfo
        (NO_BFLOAT16, {}, False),  # oneDNN would emulate it
        (set(), {}, False),
        (X86, {"level": "AVX2"}, False),  # ATEN_CPU_CAPABILITY=avx2
        (X86, {"level": "DEFAULT"}, False),
        (AMX, {"onednn": False}, False),  # ONEDNN_MAX_CPU_ISA=AVX2
        (ARM, {"onednn": False}, False),
        (set(), {"torch_says": True, "level": "AVX2"}, False),
    ],
)
def test_the_dtype_follows_from_the_processor_and_what_torch_may_use(processor, features, words, is_fast):
    processor(features, **words)
    assert has_fast_bfloat16() is is_fast
    dtype = "bfloat16" if is_fast else "float32"
    assert best_dtype(CPU) == dtype
    assert choose_machine("cpu", "auto") == Machine(CPU, getattr(torch, dtype))


@pytest.mark.parametrize("is_built_in", [True, False])
def test_a_torch_without_these_private_functions_still_gives_an_answer(processor, monkeypatch, is_built_in):
    processor(X86)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: is_built_in)
    assert has_fast_bfloat16() is is_built_in


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor, or torch on it, has no bfloat16 products")
@pytest.mark.parametrize("variable", ["ATEN_CPU_CAPABILITY=avx2", "ONEDNN_MAX_CPU_ISA=AVX2"])
def test_the_environment_variables_of_torch_and_onednn_are_respected(variable):
    command = "from minibert.support.machine import choose_machine; print(choose_machine('cpu'))"
    assert run("-c", command, env=dict([variable.split("=")])).stdout == "cpu, float32\n"


@pytest.mark.parametrize("capability, dtype", [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_the_dtype_follows_from_the_gpu(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert best_dtype(torch.device("cuda:0")) == dtype


def test_linux_lists_the_processors_features():
    if not sys.platform.startswith("linux"):
        assert machine.processor_flags() == set()
    elif torch.cpu._is_avx2_supported():
        assert "avx2" in machine.processor_flags()


def test_auto_is_the_cpu_or_the_gpu_of_this_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_machine("auto", "float32") == Machine(CPU, torch.float32)
    assert choose_machine(CPU, torch.bfloat16) == Machine(CPU, torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    for device in ("auto", "cuda"):
        assert choose_machine(device, "float32") == Machine(torch.device("cuda:1"), torch.float32)
    with pytest.raises(BadInput, match="for answering on a CPU"):
        choose_machine("cuda:0", "int8")
    assert choose_machine("cuda:0", "float16") == Machine(torch.device("cuda:0"), torch.float16)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(BadInput, match="process 2 of this machine has no GPU; start at most 2"):
        choose_machine("auto", "float32")


@pytest.mark.parametrize(
    ("device", "dtype", "flag", "what"),
    [
        ("cuda", "auto", "--device", "no CUDA device; use cpu"),
        ("cuda:1", "float32", "--device", "must be auto, cpu, cuda"),
        ("gpu", "float32", "--device", "must be auto, cpu, cuda"),
        ("cpu", "float16", "--dtype", "very slow on a CPU; use bfloat16 or float32"),
        ("cpu", "float8", "--dtype", "must be auto, float32, bfloat16, float16 or int8"),
    ],
)
def test_what_the_machine_cannot_do_is_refused(monkeypatch, device, dtype, flag, what):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(BadInput, match=what) as caught:
        choose_machine(device, dtype)
    assert (caught.value.file, caught.value.where) == (flag, device if flag == "--device" else dtype)


def test_deterministic_kernels_are_chosen_before_cuda_starts(monkeypatch):
    chosen: list = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", chosen.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    choose_machine("cpu", "float32")
    assert chosen == [] and "CUBLAS_WORKSPACE_CONFIG" not in machine.os.environ
    choose_machine("cpu", "float32", is_deterministic=True)
    assert chosen == [True] and machine.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_machine_prints_what_it_is():
    assert str(Machine(CPU, torch.bfloat16)) == "cpu, bfloat16"


def test_autocast_casts_unless_the_weights_have_the_dtype():
    model, x = nn.Linear(5, 3), torch.ones(2, 5)
    with Machine(CPU, torch.bfloat16).autocast(model):
        assert model(x).dtype is torch.bfloat16
    for dtype in (torch.float32, torch.bfloat16):
        with Machine(CPU, dtype).autocast(model.to(dtype)):
            assert not torch.is_autocast_enabled("cpu") and model(x.to(dtype)).dtype is dtype


def test_a_batch_on_the_cpu_is_not_copied():
    batch = {"input_ids": torch.ones(2, 3), "start_positions": None}
    assert Machine(CPU, torch.float32).load(batch) is batch


@pytest.mark.parametrize(
    ("platform", "has_mallopt", "expected"),
    [("linux", True, [(-4, 0), (-1, -1)]), ("linux", False, []), ("win32", True, []), ("darwin", True, [])],
)
def test_mallopt_is_called_only_where_the_c_library_has_it(monkeypatch, platform, has_mallopt, expected):
    calls: list = []
    libc = SimpleNamespace(mallopt=lambda *words: calls.append(words)) if has_mallopt else SimpleNamespace()
    with monkeypatch.context() as other:
        other.setattr(sys, "platform", platform)
        other.setattr(ctypes, "CDLL", lambda _: libc if platform == "linux" else 1 / 0)
        keep_memory()
    assert calls == expected
    keep_memory()  # the real one is harmless
