"""Checks of a machine for language models: the GPUs, their driver, and the build of llama.cpp."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

from fks.ai.engines.deployment import INSTALL, has_llama
from fks.model.errors import PeerError

CUDA_MIN: Final = (12, 2)
VIDEO_GB_MIN: Final = 8.0
ASK_S: Final = 10.0
_QUERY = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")

Row = dict[str, str]


def ask_nvidia(arguments: Sequence[str]) -> str | None:
    """Return what nvidia-smi prints; None when it is absent, fails or hangs."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def gpu_rows(
    ask: Callable[[Sequence[str]], str | None] = ask_nvidia, read_memory: Callable[[], Sequence[int]] | None = None
) -> list[Row]:
    """Return the checks of driver, CUDA version and video memory; each has name, state, detail and remedy.

    `read_memory` returns the free bytes of each GPU, as `free_video_memory` does, which is the default."""
    listed, about = ask(_QUERY), ask(())
    if listed is None or about is None:
        return [_row("driver", False, "no NVIDIA driver answers (nvidia-smi)", "install the driver of the GPU")]
    rows = [_row("driver", True, f"{len(listed.splitlines())} GPU")]
    found = re.search(r"CUDA[^:]*Version:\s*(\d+)\.(\d+)", about)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    least = ".".join(map(str, CUDA_MIN))
    rows.append(
        _row("cuda", version >= CUDA_MIN, f"the driver offers CUDA {version[0]}.{version[1]}", f"{least} is the least")
    )
    for line in listed.splitlines():
        name, total, free = (part.strip() for part in line.rsplit(",", 2))
        total_gb, free_gb = float(total) / 1024, float(free) / 1024
        text = f"{name}: {total_gb:.1f} GB, {free_gb:.1f} GB free"
        rows.append(_row("video memory", total_gb >= VIDEO_GB_MIN, text, f"{VIDEO_GB_MIN:g} GB are the least"))
    return [*rows, _placement_row(read_memory or free_video_memory)]


def _placement_row(read_memory: Callable[[], Sequence[int]]) -> Row:
    try:
        free = ", ".join(f"{one / 1e9:.1f}" for one in read_memory())
    except PeerError as error:
        return _row("placement", False, f"free video memory cannot be read: {error}", "no model is placed without it")
    return _row("placement", True, f"NVML reports {free} GB free")


def engine_row() -> Row:
    """Return the check of llama.cpp: whether it is installed, and the devices that its build knows."""
    if not has_llama():
        return _row("engine", False, "llama.cpp is not installed", INSTALL)
    import xllamacpp

    devices: list[dict[str, Any]] = xllamacpp.get_device_info()
    names = ", ".join(str(one["name"]) for one in devices)
    return _row("engine", True, f"llama.cpp of xllamacpp {xllamacpp.__version__}; devices: {names}")


def free_video_memory(visible: str | None = None) -> list[int]:
    """Return the free bytes of each GPU of this machine, as its driver reports them (NVML). Errors: PeerError.

    `visible`: the GPUs that count, as in CUDA_VISIBLE_DEVICES: indices or UUIDs; None for all.
    """
    try:
        import pynvml
    except ImportError as error:
        raise PeerError(f"nvidia-ml-py is not installed there: {INSTALL}") from error
    try:
        pynvml.nvmlInit()
        named = range(pynvml.nvmlDeviceGetCount()) if visible is None else visible.split(",")
        devices = [_device(pynvml, str(one).strip()) for one in named if one != ""]
        return [int(pynvml.nvmlDeviceGetMemoryInfo(device).free) for device in devices]
    except pynvml.NVMLError as error:
        raise PeerError(f"NVML: {error}") from error


def _device(nvml: Any, name: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)


def has_gpu_build() -> bool:
    """Return whether llama.cpp is installed in a build that knows a GPU of this machine."""
    if not has_llama():
        return False
    import xllamacpp

    return any("CPU" not in str(one["name"]).upper() for one in xllamacpp.get_device_info())


def _row(name: str, is_well: bool, detail: str, remedy: str = "") -> Row:
    return {"name": name, "state": "ok" if is_well else "fail", "detail": detail, "remedy": remedy}
