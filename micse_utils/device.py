"""Which hardware, which number format."""

import torch

from micse_utils.settings import setting


def pick_device() -> torch.device:
    """The device to compute on: MPS, else CUDA, else CPU; `MICSE_DEVICE` overrides.

    Raises:
        ValueError: `MICSE_DEVICE` is no device name, or names hardware that is not there.
    """
    chosen = setting("MICSE_DEVICE")
    if chosen is None:
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"MICSE_DEVICE={chosen} cannot be used here ({reason}); try cpu, or unset it"
        ) from error
    return device


def pick_dtype(device: torch.device | str) -> torch.dtype:
    """The number format to encode in: bfloat16 where the hardware has units for it, else float32.

    Units for it: AMX or AVX512-BF16 on x86, the bf16 instructions of Arm, compute capability 8.0
    (Ampere) and later on CUDA. Elsewhere bfloat16 is emulated, slower than float32 and less exact.
    """
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    if device.type == "cpu":
        units = torch.cpu.get_capabilities()
        if any(units.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")):
            return torch.bfloat16
    return torch.float32
