"""Choose device, threads and number format."""

import functools
import math
import os
import sys

import psutil
import torch
from threadpoolctl import threadpool_limits

from micse_utils.settings import limit, setting, whole

# Physical cores of the machine, logical ones of this process.
CORES = psutil.cpu_count(logical=False) or os.cpu_count()
USABLE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def pick_device() -> torch.device:
    """Return the device to compute on: MPS, else CUDA, else CPU; `MICSE_DEVICE` overrides."""
    if (chosen := setting("MICSE_DEVICE")) is None:
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
        return torch.device(chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = f"{str(error).splitlines()[0]}; try cpu, or unset it"
        raise ValueError(f"MICSE_DEVICE={chosen} cannot be used here: {reason}") from error


def pick_threads() -> int:
    """Return the number of threads: MICSE_THREADS, else OMP_NUM_THREADS, else the usable cores."""
    name = "MICSE_THREADS" if setting("MICSE_THREADS") else "OMP_NUM_THREADS"
    usable = min(USABLE, math.ceil(min(limit("cpu"), CORES)))  # physical; by affinity and quota
    chosen = setting(name) or str(usable)
    chosen = chosen.split(",")[0]  # OMP_NUM_THREADS goes on with those of nested loops
    return whole(name, int(chosen) if chosen.isdecimal() else chosen, 1)


@functools.cache
def use_threads() -> None:
    """Let all libraries compute with `pick_threads()` threads; only once, so later changes win."""
    threads = pick_threads()
    if numba := sys.modules.get("numba"):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    else:
        os.environ.setdefault("NUMBA_NUM_THREADS", str(threads))
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # of the tokenizers
    torch.set_num_threads(threads)  # after Numba, which sets the number of OpenMP as it starts
    threadpool_limits(threads)


def pick_dtype(device: torch.device | str) -> torch.dtype:
    """Return the number format to encode in: bfloat16 if the hardware has units for it.

    AMX or AVX512-BF16 on x86, the bf16 instructions of Arm, CUDA from compute capability 8.0
    (Ampere). Elsewhere bfloat16 is emulated, slower than float32 and less exact.
    """
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    if device.type == "cpu":
        units = torch.cpu.get_capabilities()
        if any(units.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")):
            return torch.bfloat16
    return torch.float32
