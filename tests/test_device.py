import os
import shutil
import subprocess
import sys

import psutil
import pytest
import torch

from micse_utils import settings
from micse_utils.device import pick_device, pick_dtype, pick_threads


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv("MICSE_DEVICE", raising=False)


@pytest.mark.parametrize(
    ("mps", "cuda", "chosen", "expected"),
    [(True, True, "", "mps"), (False, True, "", "cuda"), (False, False, "", "cpu"),
     (False, True, "cpu", "cpu")],
)  # fmt: skip
def test_mps_comes_before_cuda_before_cpu_and_the_variable_overrides(
    monkeypatch, mps, cuda, chosen, expected
):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setenv("MICSE_DEVICE", chosen)
    assert pick_device() == torch.device(expected)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu please"])
def test_a_missing_device_is_rejected_by_name(monkeypatch, name):
    monkeypatch.setenv("MICSE_DEVICE", name)
    with pytest.raises(ValueError, match=f"MICSE_DEVICE={name} cannot be used here: .*; try cpu"):
        pick_device()


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "amx_bf16": False}, torch.float32),  # it would be emulated
    ],
)
def test_a_cpu_gets_bfloat16_if_it_has_units_for_it(monkeypatch, units, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert pick_dtype("cpu") is expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)]
)
def test_cuda_gets_bfloat16_from_ampere_on_and_mps_float32(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_dtype("cuda") is expected
    assert pick_dtype("mps") is torch.float32


CHOICES = ("MICSE_THREADS", "OMP_NUM_THREADS", "CPU_LIMIT", "NUMBA_NUM_THREADS")


@pytest.fixture
def large(monkeypatch, tmp_path):
    """A machine with 16 cores and no limits, where nobody has chosen."""
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("micse_utils.device.CORES", 16)
    monkeypatch.setattr("micse_utils.device.USABLE", 16)
    monkeypatch.setattr(settings, "SYSTEM", tmp_path)
    return monkeypatch


def groups(root, line, files):
    """Write what Linux shows a process of its control groups."""
    for name, text in {"proc/self/cgroup": line, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n", encoding="utf-8")


QUOTAS = {
    "a container's, under its name outside": (
        "0::/docker/0a1b",
        {"sys/fs/cgroup/cpu.max": "50000 100000"},
        1,
    ),
    "one further out": (
        "0::/user.slice/me.scope",
        {
            "sys/fs/cgroup/user.slice/cpu.max": "150000 100000",
            "sys/fs/cgroup/user.slice/me.scope/cpu.max": "max 100000",
        },
        2,
    ),
}


@pytest.mark.parametrize("quota", QUOTAS)
def test_the_least_quota_around_a_process_limits_its_threads(large, tmp_path, quota):
    line, files, expected = QUOTAS[quota]
    groups(tmp_path, line, files)
    assert pick_threads() == expected


def test_the_least_limit_of_memory_is_found(large, tmp_path):
    inner = "sys/fs/cgroup/a/b/memory.max"
    groups(tmp_path, "0::/a/b", {inner: "max", "sys/fs/cgroup/a/memory.max": "2000000000"})
    assert settings.limit("memory") == 2e9
    large.setenv("MEM_LIMIT", "1073741824")
    assert settings.limit("memory") == 2**30


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"CPU_LIMIT": "0.5"}, 1),
        ({"CPU_LIMIT": "none"}, 16),
        ({"CPU_LIMIT": "2", "OMP_NUM_THREADS": "6,2"}, 6),
        ({"CPU_LIMIT": "2", "OMP_NUM_THREADS": "6,2", "MICSE_THREADS": "24"}, 24),
    ],
)
def test_jupyterhubs_limit_counts_and_the_users_choice_wins(large, variables, expected):
    for name, value in variables.items():
        large.setenv(name, value)
    assert pick_threads() == expected


@pytest.mark.parametrize("name", ["MICSE_THREADS", "OMP_NUM_THREADS"])
def test_a_number_of_threads_that_is_none_is_refused_by_name(large, name):
    large.setenv(name, "two")
    with pytest.raises(ValueError, match=f'{name} must be a whole number from 1, got "two"'):
        pick_threads()


ASK = """
import micse_utils.device
micse_utils.device.use_threads()
LATER
from threadpoolctl import threadpool_info
blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
print(torch.get_num_threads(), *blas, numba.get_num_threads())
"""


def numbers(*before, imports="import numpy, numba, torch; ", later="", **variables):
    """Threads of PyTorch, BLAS and Numba in a process of its own that imports the package."""
    environment = {k: v for k, v in os.environ.items() if k not in CHOICES} | variables
    command = [*before, sys.executable, "-c", imports + ASK.replace("LATER", later)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def test_all_libraries_take_the_number():
    assert numbers(CPU_LIMIT="1") == [1, 1, 1]


def test_a_number_set_later_is_kept():
    many = psutil.cpu_count() + 3
    later = f"torch.set_num_threads({many}); micse_utils.device.use_threads()"
    imports = "import numpy, torch, micse_utils.device, numba;"
    assert numbers(imports=imports, later=later, CPU_LIMIT="1")[0] == many


@pytest.mark.skipif(not shutil.which("taskset"), reason="needs taskset")
def test_a_process_held_to_one_core_gets_one_thread():
    core = min(os.sched_getaffinity(0))
    assert numbers("taskset", "-c", str(core)) == [1, 1, 1]
