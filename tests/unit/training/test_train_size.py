"""Training at another size than that of validation: what the network sees, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from components.errors import UserError
from components.models import architectures
from components.records.splits import Manifest
from components.training import loop
from components.training.plan import describe_network
from components.training.stepper import Stepper
from tests.unit.training.cases import NETWORK, make_config, make_recipe


def record_sizes(monkeypatch: pytest.MonkeyPatch) -> dict[bool, set[tuple[int, ...]]]:
    """Return the sizes of images that networks get, by whether they are in training mode."""
    sizes: dict[bool, set[tuple[int, ...]]] = {True: set(), False: set()}
    forward = architectures.Classifier.forward

    def record(self: architectures.Classifier, images: Tensor) -> Tensor:
        sizes[self.training].add(tuple(images.shape[1:3]))
        return forward(self, images)

    monkeypatch.setattr(architectures.Classifier, "forward", record)
    return sizes


@pytest.mark.parametrize("policy", [[], [{"name": "resized_crop"}]])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_network_is_trained_at_the_train_size_and_validated_at_its_own(
    precision: str, policy: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = record_sizes(monkeypatch)
    config = make_config(epochs=1, train_size=[8, 10], augment={"policy": policy})
    loop.train(config, precision=precision)
    assert sizes == {True: {(8, 10)}, False: {(12, 12)}}


def test_images_of_an_epoch_do_not_depend_on_micro_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = [{"name": "resized_crop"}, {"name": "erasing"}, {"name": "rotation", "degrees": 9}]

    def collect(micro_batches: int) -> list[Tensor]:
        batches: list[Tensor] = []
        forward = architectures.Classifier.forward

        def record(self: architectures.Classifier, images: Tensor) -> Tensor:
            batches.append(images)
            return forward(self, images)

        with monkeypatch.context() as patch:
            patch.setattr(architectures.Classifier, "forward", record)
            config = make_config(micro_batches, augment={"policy": policy})
            torch.manual_seed(0)
            model = architectures.build(NETWORK)
            state = loop.TrainState(model, config.recipe, 8, "fp32")
            list(Stepper(config, state).train_epoch())
        return batches

    whole = torch.cat(collect(1))
    assert torch.equal(torch.cat(collect(3)), whole)
    assert len(whole.unique(dim=0)) == len(whole)


def make_manifest(side: int) -> Manifest:
    return Manifest.model_construct(
        shape=(side, side, 1), classes=NETWORK.classes, channels=NETWORK.channels
    )


@pytest.mark.parametrize("size", [16, [12, 13], [13, 12]])
def test_train_size_beyond_the_images_is_refused(size: Any) -> None:
    manifest = make_manifest(12)
    with pytest.raises(UserError, match=r"train_size is 1\d x 1\d, larger .* \(12 x 12\); lower"):
        describe_network(make_recipe(train_size=size), manifest, manifest)
    describe_network(make_recipe(train_size=12), manifest, manifest)


@pytest.mark.parametrize(
    ("architecture", "sides", "advice"),
    [
        ("lstm", (28, 24), "leave train_size out"),
        ("mnist_cnn", (24, 24), "leave train_size out"),
        ("vgg11", (16, 16), "set train_size to 32 or 48 or 64, or leave train_size out"),
        ("lstm", (24, 28), None),
        ("resnet20", (24, 24), None),
        ("attention", (16, 16), None),
        ("cnn", (16, 16), None),
    ],
)
def test_architecture_that_cannot_take_the_train_size_is_refused(
    architecture: str, sides: tuple[int, int], advice: str | None
) -> None:
    side = 64 if architecture == "vgg11" else 28
    network = NETWORK.model_copy(
        update={"architecture": architecture, "width": None, "shape": (side, side, 1)}
    )
    if advice is None:
        architectures.check(network, sides)
        return
    with pytest.raises(UserError, match=f"trained on images of {sides[0]} x {sides[1]}") as caught:
        architectures.check(network, sides)
    assert str(caught.value).endswith(advice)
