"""Where a run computes, in which precision, and how much memory it took."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from typing import Literal

import torch

from ad.core.errors import SettingError
from ad.core.trainer import Precision


def resolve_device(device: str) -> torch.device:
    """Turn ``auto`` into CUDA where there is one and the CPU elsewhere; check the others.

    Of processes that torchrun started, each has the GPU of its own number.

    Raises:
        SettingError: If the device does not exist here.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device in ("auto", "cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    index = device.removeprefix("cuda:")
    if not device.startswith("cuda") or not index.isdigit():
        msg = f"`device` must be `auto`, `cpu`, `cuda` or `cuda:N`; got `{device}`."
        raise SettingError(msg)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index) >= count:
        msg = f"`{device}` was asked for, but there are {count} CUDA devices here; use `cpu`."
        raise SettingError(msg)
    return torch.device("cuda", int(index))


def resolve_precision(
    precision: Literal["auto", "fp32", "bf16"], device: torch.device
) -> Precision:
    """Turn ``auto`` into the fastest safe precision of a device.

    bf16 on CUDA devices that have it and on CPUs with AMX or AVX512-BF16, fp32 elsewhere.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if _fast_cpu() else "fp32"
    return "fp32"


def why_precision(device: torch.device) -> str:
    """Why `resolve_precision` takes what it takes for ``auto``, in words."""
    if resolve_precision("auto", device) == "bf16":
        by = f" ({_fast_cpu()})" if device.type == "cpu" else ""
        return f"this {_NOUNS.get(device.type, 'device')} computes in it{by}"
    if device.type == "cpu":
        return "this CPU has neither AMX nor AVX512-BF16, so that bf16 would be slow"
    return f"this {_NOUNS.get(device.type, 'device')} does not compute in bf16"


def name_of(device: torch.device) -> str:
    """A device for a person: ``cpu, 4 threads``."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' * (threads != 1)}"


_NOUNS = {"cpu": "CPU", "cuda": "GPU"}


def _fast_cpu() -> str:
    """What makes bf16 fast on this CPU; empty if nothing does."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else ""


def in_precision(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """For what networks compute inside of it: bf16 where it is exact enough for them, or fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def peak_memory(device: torch.device) -> int | None:
    """Largest memory of this process so far, in bytes; on a GPU, of its memory there.

    None where the system does not tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
