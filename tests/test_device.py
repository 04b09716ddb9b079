import pytest
import torch

from micse_utils.device import pick_device, pick_dtype


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv("MICSE_DEVICE", raising=False)


@pytest.mark.parametrize(
    ("mps", "cuda", "expected"),
    [(True, True, "mps"), (True, False, "mps"), (False, True, "cuda"), (False, False, "cpu")],
)
def test_mps_comes_before_cuda_before_cpu(monkeypatch, mps, cuda, expected):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert pick_device() == torch.device(expected)


def test_the_variable_overrides(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("MICSE_DEVICE", "cpu")
    assert pick_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu please"])
def test_a_device_that_is_not_there_is_refused_by_name(monkeypatch, name):
    monkeypatch.setenv("MICSE_DEVICE", name)
    with pytest.raises(ValueError, match=f"MICSE_DEVICE={name} cannot be used here"):
        pick_device()


@pytest.mark.parametrize("unit", ["amx_bf16", "avx512_bf16", "bf16"])
def test_a_cpu_with_bfloat16_units_gets_bfloat16(monkeypatch, unit):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, unit: True})
    assert pick_dtype("cpu") is torch.bfloat16


def test_a_cpu_that_only_emulates_bfloat16_gets_float32(monkeypatch):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "amx_bf16": False}
    )
    assert pick_dtype("cpu") is torch.float32


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_cuda_gets_bfloat16_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_dtype("cuda") is expected


def test_mps_gets_float32():
    assert pick_dtype("mps") is torch.float32
