"""The loop on a GPU that does not exist: torch's fake tensors follow the device of each, and refuse to mix two.

Shapes and devices are real, values are not, and nothing is differentiated (autograd wants the GPU's driver): what this finds
is a tensor left on the CPU, in all that the loop does around forward and backward.
"""

from __future__ import annotations

import multiprocessing
import os
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from components.data.loading.image_stores import Resident
from components.params import Recipe
from components.records.splits import Channels
from components.records.training import Network
from components.training import loop, precision
from components.training.callback import Surroundings
from tests.conftest import make_images

GPU = torch.device("cuda:0")
NETWORK = Network(
    architecture="cnn", width=8, shape=(12, 12, 1), classes=["a", "b", "c"], channels=Channels(mean=[80.0], std=[60.0]),
    mirror=True,
)  # fmt: skip
# Whatever makes tensors of its own.
RECIPE = Recipe.model_validate({
    "architecture": "cnn", "epochs": 2, "learning_rate": 0.1, "muon": {"learning_rate": 0.05}, "clip_gradient_norm": 1.0,
    "ema_decay": 0.9, "label_smoothing": 0.1, "loss": {"name": "focal", "class_weights": "balanced"},
    "augment": {"flip": 0.5, "crop_padding": 2, "erase": 4, "mixup": 0.2, "cutmix": 1.0},
})  # fmt: skip


def test_no_tensor_is_left_behind_on_the_cpu() -> None:
    process = multiprocessing.get_context("spawn").Process(target=_train)
    process.start()
    process.join(120)
    assert process.exitcode == 0


def _train() -> None:
    _pretend()
    saved: list[dict[str, Any]] = []
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        images = Resident(make_images(20), GPU)
        assert images.pixels.device == GPU
        run = loop.Run(
            network=NETWORK, train=images, val=images, recipe=RECIPE, global_batch=8, micro_batches=2, seed=0, device=GPU,
            around=Surroundings(save=lambda state, _: saved.append(state)),
        )  # fmt: skip
        outcome = loop.train(run)
        assert len(outcome.history) == 2
        assert {value.device.type for value in outcome.state.values()} == {"cpu"}
        assert len(loop.train(run, resume=saved[1]).history) == 2, "a state from the CPU goes on on the GPU"
    os._exit(0)  # before fake tensors are taken apart, which may crash


def _pretend() -> None:
    """What asks for lists is told zeros, for numbers ones; a backward pass leaves zeros."""
    parameters: list[nn.Parameter] = []
    build = loop.build

    def zeros(shape: tuple[int, ...]) -> Any:
        return [zeros(shape[1:]) for _ in range(shape[0])] if shape else 0.0

    def backward(self: Tensor) -> None:
        assert self.device == GPU
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)

    def build_there(network: Network) -> Any:
        with GPU:
            model: Any = build(network)
        model.to = lambda *_, **__: model  # fake parameters cannot be moved
        parameters.extend(model.parameters())
        return model

    values = {
        "tolist": lambda self: zeros(tuple(self.shape)), "data_ptr": lambda self: id(self.untyped_storage()),
        "item": lambda _: 1.0, "__float__": lambda _: 1.0, "__int__": lambda _: 0, "__bool__": lambda _: True,
    }  # fmt: skip
    for name, value in values.items():
        setattr(FakeTensor, name, value)
    Tensor.backward = backward
    torch.bincount = lambda x, minlength: x.new_ones(minlength)
    torch.cuda.synchronize = lambda _: None
    loop.build = build_there
    precision.copy = SimpleNamespace(deepcopy=lambda model: model)
