"""Features of a frozen backbone: computed once, with the same result as in every epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from components.errors import UserError
from components.models.architectures import build
from components.records.training import Network
from components.training import loop, starting_model
from components.training.events import FeaturesComputed
from components.training.frozen_features import can_compute_once
from tests.unit.training.cases import (
    NETWORK,
    TRAIN,
    VAL,
    Recorder,
    assert_same_on_ranks_and_after_resume,
    make_config,
    train,
)

FROZEN: dict[str, Any] = {
    "freeze_backbone": True,
    "init": "x",
    "augment": {"flip": 0.5},
    "micro_batches": 3,
    "epochs": 2,
}


@pytest.fixture(scope="module")
def initial() -> bytes:
    """Return random weights of a whole network."""
    torch.manual_seed(1)
    return save(dict(build(NETWORK).network.state_dict()))


@pytest.mark.parametrize("extra", [{}, {"ema_decay": 0.9, "clip_gradient_norm": 1.0}])
def test_weights_do_not_depend_on_world_size_or_resume(
    initial: bytes, extra: dict[str, Any]
) -> None:
    values = FROZEN | extra | {"initial": initial}
    assert_same_on_ranks_and_after_resume((0, 11), **values)


@pytest.mark.parametrize(("mirror", "flip"), [(False, 0.0), (True, 0.5)])
def test_result_is_that_of_computing_features_in_every_epoch(
    initial: bytes, mirror: bool, flip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(**FROZEN | {"augment": {"flip": flip}}, initial=initial)
    config = replace(config, network=NETWORK.model_copy(update={"mirror": mirror}))
    once = loop.train(config, precision="fp32")
    monkeypatch.setattr(starting_model, "can_compute_once", lambda *_: False)
    anew = loop.train(config, precision="fp32")
    assert once.weights.keys() == anew.weights.keys()
    assert once.parameters == anew.parameters
    for name, tensor in anew.weights.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(once.weights[name], tensor, rtol=1e-4, atol=1e-5)
    for one, other in zip(once.history, anew.history, strict=True):
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-4)
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)


def test_backbone_runs_once_for_each_image(initial: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[int] = []

    def build_counting(network: Network) -> Any:
        model = build(network)
        model.network[0].register_forward_hook(lambda m, x, y: images.append(len(x[0])))
        return model

    monkeypatch.setattr(starting_model, "build", build_counting)
    recorder = Recorder()
    train(**FROZEN | {"epochs": 5}, initial=initial, callback=recorder)
    blank_images = 2
    expected = 2 * len(TRAIN) + len(VAL)  # with the mirror images of the training images
    assert sum(images) == expected + blank_images
    events = [event for event in recorder.events if isinstance(event, FeaturesComputed)]
    assert events[-1].done == events[-1].images == expected


@pytest.mark.parametrize(
    "recipe",
    [
        {"augment": {"crop_padding": 2}},
        {"augment": {"mixup": 0.2}},
        {"augment": {"policy": [{"name": "vertical_flip"}]}},
        {"train_size": 10},
        {"freeze_backbone": False},
    ],
)
def test_features_that_may_change_are_computed_in_every_epoch(
    initial: bytes, recipe: dict[str, Any]
) -> None:
    config = make_config(**FROZEN | {"augment": {}} | recipe, initial=initial)
    assert not can_compute_once(config, build(NETWORK))


@pytest.mark.parametrize(
    ("architecture", "possible"),
    [("mobilenet_v3_small", True), ("timm/resnet10t", True), ("squeezenet1_1", False)],
)
def test_head_must_be_a_linear_layer_at_the_end(architecture: str, possible: bool) -> None:
    network = Network(
        architecture=architecture,
        width=None,
        shape=(64, 64, 3),
        classes=["a", "b", "c"],
        channels=NETWORK.channels.model_copy(update={"mean": [80.0] * 3, "std": [60.0] * 3}),
    )
    config = replace(make_config(**FROZEN), network=network)
    assert can_compute_once(config, build(network)) == possible


def test_images_are_named_when_their_loss_is_not_finite(initial: bytes) -> None:
    infinite = {name: value * torch.inf for name, value in load(initial).items()}
    with pytest.raises(UserError, match=r"the loss is .*train/"):
        train(**FROZEN, initial=save(infinite))
