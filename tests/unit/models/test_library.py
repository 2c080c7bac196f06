"""Networks by name: of torchvision, of timm, and functions of this repository."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components.errors import UserError
from components.models import names
from components.models.architectures import build, check, restore
from components.records.splits import Channels
from components.records.training import Network


def make_network(architecture: str, size: int = 64, channels: int = 3, **options: Any) -> Network:
    return Network(
        architecture=architecture,
        width=None,
        shape=(size, size, channels),
        classes=["a", "b", "c"],
        channels=Channels(mean=[100.0] * channels, std=[50.0] * channels),
        options=options,
    )


@pytest.mark.parametrize(
    "network",
    [
        make_network("mobilenet_v3_small", 28, channels=1),
        make_network("timm/resnet26", 32, channels=4),
        make_network("timm/vit_tiny_patch16_224", img_size=64),
    ],
    ids=lambda network: network.architecture,
)
def test_network_is_built_and_restored_from_its_description(network: Network) -> None:
    check(network)
    torch.manual_seed(0)
    module = build(network).eval()
    restored = restore(network, dict(module.state_dict())).eval()
    images = torch.randint(0, 256, (2, *network.shape), dtype=torch.uint8)
    with torch.inference_mode():
        logits = module(images)
        assert logits.shape == (2, 3)
        assert torch.equal(restored(images), logits)


@pytest.mark.parametrize(
    "network",
    [
        make_network("vgg16_bn", 32),
        make_network("inception_v3", 96, channels=1),
        make_network("vit_b_16", image_size=64),
        make_network("convnext_tiny", 32, channels=4),
    ],
    ids=lambda network: network.architecture,
)
def test_networks_for_which_memory_is_not_taken_are_checked(network: Network) -> None:
    check(network)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (make_network("resnet19"), "no architecture resnet19; did you mean resnet18"),
        (make_network("zzzz"), r"no architecture zzzz\. Known are cnn, "),
        (make_network("timm/resnett26"), "did you mean timm/resnet26"),
        (make_network("squeezenet1_1", nonsense=1), "unexpected keyword argument 'nonsense'"),
        (make_network("squeezenet1_1", weights="DEFAULT"), "multiple values for .*'weights'"),
        (make_network("inception_v3", 96, aux_logits=True), "without its auxiliary head"),
        (make_network("vit_b_32"), r"images of 64 x 64 x 3 \(Wrong image height.*it takes 224"),
        (make_network("timm/resnet26", checkpoint_path="x"), "cannot have checkpoint_path"),
        (make_network("timm/resnet26", pretrained=True), "cannot have pretrained"),
        (make_network("os:system"), "os defines no function system whose name begins with build"),
        (make_network("components.files:write_bytes"), "defines no function write_bytes"),
        (make_network("no.such.module:build"), "module no.such.module cannot be imported"),
        (make_network("sysconfig:build_x"), "sysconfig defines no function build_x"),
    ],
    ids=lambda value: value.architecture if isinstance(value, Network) else "",
)
def test_network_that_does_not_work_is_refused_with_what_would(
    network: Network, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(network)


OWN = """
from torch import nn
def build(channels, classes, hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, hidden), nn.Linear(hidden, classes))
def build_text(channels, classes):
    return "a network"
def build_wrong(channels, classes):
    return nn.Flatten()
class Silent(nn.Module):
    def forward(self, images):
        assert images is None
def build_silent(channels, classes):
    return Silent()
"""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The name of a module in the repository, which is a temporary folder here."""
    (tmp_path / "my_networks.py").write_text(OWN)
    monkeypatch.setattr(names, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_networks"
    sys.modules.pop("my_networks", None)


def test_function_of_the_repository_builds_a_network(own: str) -> None:
    network = make_network(f"{own}:build", 8, channels=1, hidden=7)
    check(network)
    linear = build(network).network[1]
    assert isinstance(linear, nn.Linear)
    assert linear.out_features == 7


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("build_text", "returned str; a torch.nn.Module is needed"),
        ("build_wrong", r"it returns \(2, 64\) in place of logits \(2, 3\)"),
        ("build_silent", r"does not take images of 8 x 8 x 1 \(AssertionError\)"),
        ("train", "defines no function train .*it has build, build_text, build_wrong"),
    ],
)
def test_function_that_builds_no_classifier_is_refused(
    own: str, function: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(make_network(f"{own}:{function}", 8, channels=1))


def test_function_outside_of_the_repository_is_refused(
    own: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(names, "ROOT", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not in this repository"):
        check(make_network(f"{own}:build", 8, channels=1))


def test_tensors_of_another_network_are_refused() -> None:
    state = dict(build(make_network("cnn", 28)).state_dict())
    with pytest.raises(UserError, match="are not those of the squeezenet1_1"):
        restore(make_network("squeezenet1_1"), state)
