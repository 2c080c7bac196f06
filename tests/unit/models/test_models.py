"""Architectures by the numbers, and the weights file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors import safe_open
from torch import nn

from components.errors import UserError
from components.models import BUILDERS, LARGE, build, weights
from components.params import Architecture, Recipe
from components.params.train import STEMMED
from components.records.splits import Channels
from components.records.training import Network


def network(architecture: str = "cnn", channels: int = 3, size: int = 28, width: int | None = None) -> Network:
    settings = Recipe.model_validate({"architecture": architecture, "epochs": 1, "learning_rate": 0.1})
    return Network(
        architecture=architecture,
        width=width,
        stem=settings.stem_for(size, size),
        shape=(size, size, channels),
        classes=[str(n) for n in range(10)],
        channels=Channels(mean=[100.0] * channels, std=[50.0] * channels),
    )


def test_the_table_and_the_schema_name_the_same_architectures() -> None:
    assert list(BUILDERS) == list(get_args(Architecture))


@pytest.mark.parametrize("architecture", BUILDERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 96])
def test_logits_for_any_batch(architecture: str, channels: int, size: int) -> None:
    torch.manual_seed(0)
    module = build(network(architecture, channels, size)).eval()
    with torch.inference_mode():
        logits = module(torch.randint(0, 256, (3, size, size, channels), dtype=torch.uint8))
        assert logits.shape == (3, 10)
        assert logits.isfinite().all()


@pytest.mark.parametrize("architecture", ["cnn", "resnet20", "resnet18", "resnet34", "resnet50"])
def test_the_norm_of_a_convolution_does_not_matter(architecture: str) -> None:
    """Muon sets it at every step. (An architecture of somebody's own need not be such.)"""
    torch.manual_seed(0)
    module = build(network(architecture)).double().train()
    images = torch.randint(0, 256, (4, 28, 28, 3), dtype=torch.uint8)
    with torch.no_grad():
        before = module(images)
        filters = [p for p in module.parameters() if p.ndim == 4]
        for n, weight in enumerate(filters):
            weight.mul_(1.5 + n % 3)
        torch.testing.assert_close(module(images), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("architecture", "parameters"), [("resnet20", 269_722), ("resnet18", 11_173_962), ("cnn", 279_466)])
def test_parameter_counts(architecture: str, parameters: int) -> None:
    assert sum(p.numel() for p in build(network(architecture)).parameters()) == parameters


def test_resnet20_has_twenty_weighted_layers_and_keeps_resolution_in_its_first_stage() -> None:
    module = build(network("resnet20"))
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules()) == 20
    sizes = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[2]))
    module(torch.zeros(2, 28, 28, 3, dtype=torch.uint8))
    assert sizes == [28] * 7 + [14] * 6 + [7] * 6


@pytest.mark.parametrize(("size", "left"), [(28, 28), (64, 64), (65, 17), (224, 56)])
def test_small_images_are_kept_whole_and_large_ones_quartered(size: int, left: int) -> None:
    module = build(network("resnet18", size=size))
    seen = []
    module.network.layer1.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].shape[2]))
    module(torch.zeros(2, size, size, 3, dtype=torch.uint8))
    assert seen == [left]


def test_for_large_images_the_network_is_torchvisions_own() -> None:
    import torchvision.models

    assert set(LARGE) == set(STEMMED)
    for name in LARGE:
        ours, theirs = build(network(name, size=224)).network, getattr(torchvision.models, name)(num_classes=10)
        assert str(ours) == str(theirs)


def test_pooling_before_relu_is_pooling_after_it_to_the_bit() -> None:
    def gradients(network: nn.Module) -> list[torch.Tensor]:
        network.zero_grad()
        logits = network(torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0)))
        logits.square().sum().backward()
        return [logits.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]

    pooled_first = build(network()).network
    layers = list(pooled_first)
    for n, layer in enumerate(layers[:-1]):
        if isinstance(layer, nn.MaxPool2d):
            layers[n : n + 2] = [layers[n + 1], layer]
    pooled_last = nn.Sequential(*layers)
    assert [type(layer) for layer in pooled_first] != [type(layer) for layer in pooled_last]
    assert all(map(torch.equal, gradients(pooled_first), gradients(pooled_last)))


def test_normalisation_is_inside_the_module() -> None:
    module = build(network())
    module.network = nn.Identity()
    images = torch.tensor([0, 100, 150, 255], dtype=torch.uint8).view(1, 2, 2, 1).expand(1, 2, 2, 3)
    assert module(images)[0, 0].flatten().tolist() == pytest.approx([-2.0, 0.0, 1.0, 3.1])


def test_a_channel_that_never_varies_does_not_divide_by_zero() -> None:
    flat = network().model_copy(update={"channels": Channels(mean=[5.0] * 3, std=[0.0] * 3)})
    assert build(flat).eval()(torch.full((2, 28, 28, 3), 5, dtype=torch.uint8)).isfinite().all()


def test_mirrored_models_agree_on_an_image_and_its_mirror_image_except_in_training() -> None:
    torch.manual_seed(0)
    mirrored, plain = build(network().model_copy(update={"mirror": True})), build(network())
    plain.load_state_dict(mirrored.state_dict())
    images = torch.randint(0, 256, (4, 28, 28, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(mirrored.train()(images), plain.train()(images))
        both = [plain.eval()(images), plain(images.flip(2))]
        assert not torch.allclose(*both)
        assert torch.equal(mirrored.eval()(images), sum(both) / 2)
        assert torch.equal(mirrored(images.flip(2)), sum(both) / 2)


def test_width_scales_the_network() -> None:
    def size(width: int | None) -> int:
        return sum(p.numel() for p in build(network("cnn", width=width)).parameters())

    assert size(None) == size(32) < size(64)


def test_weights_round_trip_and_their_digest_is_the_files(tmp_path: Path) -> None:
    module = build(network()).to(memory_format=torch.channels_last)
    data = weights.serialize(network(), module.state_dict())
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    found, state = weights.read(path)
    assert found == network()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert weights.sha256(found, state) == hashlib.sha256(data).hexdigest(), "whatever the layout in memory"
    state["mean"] += 1
    assert weights.sha256(found, state) != hashlib.sha256(data).hexdigest()


def test_a_field_that_a_network_leaves_at_its_default_is_not_in_the_digest(tmp_path: Path) -> None:
    """Or each new one would part every registered version from its digest."""
    module, mirrored = build(network()), network().model_copy(update={"mirror": True})
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights.serialize(network(), module.state_dict()))
    with safe_open(path, framework="pt") as file:
        kept = json.loads(file.metadata()["network"])
    assert set(kept) == {"architecture", "width", "shape", "classes", "channels"}
    assert weights.sha256(mirrored, module.state_dict()) != weights.sha256(network(), module.state_dict())


@pytest.mark.parametrize("data", [b"", b"nonsense" * 10, None])
def test_what_is_not_weights_is_refused(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"weights\.safetensors: not a model's weights"):
        weights.read(path)
