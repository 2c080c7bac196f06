"""The training loop on an accelerator that needs no hardware: torch's meta device.

Meta tensors have shapes and devices but no values. A mode of torch's function overrides refuses
functions that mix them with tensors on the CPU, as a GPU would, and supplies values where the loop
reads one. So the test finds a tensor that was left on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from components.data.loading.image_stores import InMemoryImages
from components.params import Recipe
from components.records.splits import Channels
from components.records.training import Network
from components.training import loop, precision, stepper
from components.training.callback import NullCallback
from components.training.config import LoopConfig
from tests.conftest import make_images

META = torch.device("meta")
NETWORK = Network(
    architecture="cnn",
    width=8,
    shape=(12, 12, 1),
    classes=["a", "b", "c"],
    channels=Channels(mean=[80.0], std=[60.0]),
    mirror=True,
)
# Every option that creates tensors.
RECIPE = Recipe.model_validate(
    {
        "architecture": "cnn",
        "epochs": 2,
        "learning_rate": 0.1,
        "muon": {"learning_rate": 0.05},
        "clip_gradient_norm": 1.0,
        "ema_decay": 0.9,
        "label_smoothing": 0.1,
        "loss": {"name": "focal", "class_weights": "balanced"},
        "augment": {"flip": 0.5, "crop_padding": 2, "erase": 4, "mixup": 0.2, "cutmix": 1.0},
    }
)


def zeros_list(shape: torch.Size) -> Any:
    return [zeros_list(shape[1:]) for _ in range(shape[0])] if shape else 0.0


# Values of functions that read a meta tensor, which has none.
SUBSTITUTES: dict[Any, Callable[..., Any]] = {
    Tensor.tolist: lambda x: zeros_list(x.shape),
    Tensor.item: lambda _: 1.0,
    Tensor.__float__: lambda _: 1.0,
    Tensor.__bool__: lambda _: True,
    Tensor.data_ptr: id,
    Tensor.cpu: lambda x: torch.zeros(x.shape, dtype=x.dtype),
    torch.bincount: lambda x, minlength: x.new_ones(minlength),
}
# Functions that copy between devices on a GPU, too.
COPIES = (Tensor.to, Tensor.copy_)


def find_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from find_tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from find_tensors(inner)


class SeparateDevices(TorchFunctionMode):
    """Refuses to mix devices. As on a GPU, scalars and indices may be on the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in SUBSTITUTES and args[0].is_meta:
            return SUBSTITUTES[func](*args, **kwargs)
        result = func(*args, **kwargs)
        tensors = [t for t in find_tensors([args, kwargs]) if t.ndim > 0]
        if func is Tensor.__getitem__ and args[0].is_meta:
            tensors = tensors[:1]
        devices = {t.device.type for t in tensors}
        computes = isinstance(result, Tensor) and func not in COPIES
        assert len(devices) < 2 or not computes, f"{func} mixes {devices}"
        return result


class StateRecorder(NullCallback):
    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:
        self.states.append(state)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_no_tensor_is_left_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (precision, stepper):
        monkeypatch.setattr(module, "autocast", lambda *_: nullcontext())  # torch has none for meta
    recorder = StateRecorder()
    with SeparateDevices():
        images = InMemoryImages(make_images(20), META)
        assert images.pixels.device == META
        config = LoopConfig(
            network=NETWORK,
            train=images,
            val=images,
            recipe=RECIPE,
            global_batch=8,
            micro_batches=2,
            seed=0,
            device=META,
            callback=recorder,
        )
        outcome = loop.train(config)
        resumed = loop.train(config, resume=recorder.states[1])
    assert len(outcome.history) == len(resumed.history) == 2
    assert {value.device.type for value in outcome.weights.values()} == {"cpu"}
