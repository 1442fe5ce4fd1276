"""Free video memory, as the driver of NVIDIA's GPUs reports it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pynvml
import pytest

from fks.ai.machine import free_video_memory
from fks.model.errors import PeerError

FREE = {"0": 10, "1": 20, "GPU-b": 20}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with two GPUs, in place of the library that NVML would load."""

    def handle(name: object) -> str:
        if str(name) not in FREE:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return str(name)

    calls: dict[str, Callable[..., object]] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetMemoryInfo": lambda device: SimpleNamespace(free=FREE[device]),
    }
    for name, call in calls.items():
        monkeypatch.setattr(pynvml, name, call)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(("visible", "expected"), [(None, [10, 20]), ("", []), ("1", [20]), ("GPU-b, 0", [20, 10])])
def test_free_memory_is_that_of_the_gpus_that_a_node_offers(visible: str | None, expected: list[int]) -> None:
    assert free_video_memory(visible) == expected


@pytest.mark.usefixtures("driver")
def test_gpu_that_the_driver_does_not_know_makes_the_memory_unreadable() -> None:
    with pytest.raises(PeerError, match="NVML: Not Found"):
        free_video_memory("7")


def test_without_the_driver_the_memory_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_loaded() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", not_loaded)
    with pytest.raises(PeerError, match="NVML: Driver Not Loaded"):
        free_video_memory()
