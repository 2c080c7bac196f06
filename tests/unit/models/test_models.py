"""Architectures and the classifier: parameter counts, shapes, normalisation."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from components.models.architectures import BUILDERS, build
from components.models.stems import choose_stem
from components.params.base import MUON_ARCHITECTURES, OWN_ARCHITECTURES, STEMS, Stem
from components.records.splits import Channels
from components.records.training import Network


def make_network(
    architecture: str = "cnn",
    channels: int = 3,
    size: int = 28,
    width: int | None = None,
    stem: Stem | Literal["auto"] = "auto",
) -> Network:
    return Network(
        architecture=architecture,
        width=width,
        stem=choose_stem(architecture, stem, size, size),
        shape=(size, size, channels),
        classes=[str(n) for n in range(10)],
        channels=Channels(mean=[100.0] * channels, std=[50.0] * channels),
    )


def test_builders_and_schema_have_the_same_architectures() -> None:
    assert list(BUILDERS) == list(OWN_ARCHITECTURES)


@pytest.mark.parametrize("architecture", MUON_ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 96])
def test_logits_are_finite_for_small_and_large_images(
    architecture: str, channels: int, size: int
) -> None:
    torch.manual_seed(0)
    module = build(make_network(architecture, channels, size)).eval()
    with torch.inference_mode():
        logits = module(torch.randint(0, 256, (3, size, size, channels), dtype=torch.uint8))
        assert logits.shape == (3, 10)
        assert logits.isfinite().all()


@pytest.mark.parametrize("architecture", MUON_ARCHITECTURES)
def test_logits_do_not_depend_on_the_norm_of_a_convolution(architecture: str) -> None:
    """Muon sets this norm at every step. A new architecture may lack the property."""
    torch.manual_seed(0)
    module = build(make_network(architecture)).double().train()
    images = torch.randint(0, 256, (4, 28, 28, 3), dtype=torch.uint8)
    with torch.no_grad():
        before = module(images)
        filters = [p for p in module.parameters() if p.ndim == 4]
        for n, weight in enumerate(filters):
            weight.mul_(1.5 + n % 3)
        torch.testing.assert_close(module(images), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [("resnet14", 172_506), ("resnet20", 269_722), ("resnet18", 11_173_962), ("cnn", 279_466)],
)
def test_parameter_counts(architecture: str, parameters: int) -> None:
    assert sum(p.numel() for p in build(make_network(architecture)).parameters()) == parameters


def test_resnet20_has_twenty_weighted_layers_and_halves_the_resolution_twice() -> None:
    module = build(make_network("resnet20"))
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules()) == 20
    sizes = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[2]))
    module(torch.zeros(2, 28, 28, 3, dtype=torch.uint8))
    assert sizes == [28] * 7 + [14] * 6 + [7] * 6


@pytest.mark.parametrize(("size", "after_stem"), [(28, 28), (64, 64), (65, 17), (224, 56)])
def test_stem_keeps_small_images_and_quarters_large_ones(size: int, after_stem: int) -> None:
    module = build(make_network("resnet18", size=size))
    sizes = []
    module.network.layer1.register_forward_pre_hook(
        lambda _m, inputs: sizes.append(inputs[0].shape[2])
    )
    module(torch.zeros(2, size, size, 3, dtype=torch.uint8))
    assert sizes == [after_stem]


@pytest.mark.parametrize("architecture", STEMS)
@pytest.mark.parametrize("size", [28, 33])
def test_stem_half_halves_height_and_width(architecture: str, size: int) -> None:
    module = build(make_network(architecture, size=size, stem="half"))
    sizes = []
    first = next(m for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    first.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[2]))
    assert module(torch.zeros(2, size, size, 3, dtype=torch.uint8)).isfinite().all()
    assert sizes == [size // 2]


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50"])
def test_network_for_large_images_equals_torchvisions(architecture: str) -> None:
    import torchvision.models

    network = build(make_network(architecture, size=224)).network
    reference = getattr(torchvision.models, architecture)(num_classes=10)
    assert str(network) == str(reference)


def test_pooling_before_relu_gives_the_same_bits_as_pooling_after_it() -> None:
    def compute(network: nn.Module) -> list[torch.Tensor]:
        """Return logits and gradients."""
        network.zero_grad()
        logits = network(torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0)))
        logits.square().sum().backward()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        return [logits.detach(), *gradients]

    pool_first = build(make_network()).network
    layers = list(pool_first)
    for n, layer in enumerate(layers[:-1]):
        if isinstance(layer, nn.MaxPool2d):
            layers[n : n + 2] = [layers[n + 1], layer]
    relu_first = nn.Sequential(*layers)
    assert [type(layer) for layer in pool_first] != [type(layer) for layer in relu_first]
    assert all(map(torch.equal, compute(pool_first), compute(relu_first)))


def test_classifier_normalises_images() -> None:
    module = build(make_network())
    module.network = nn.Identity()
    images = torch.tensor([0, 100, 150, 255], dtype=torch.uint8).view(1, 2, 2, 1).expand(1, 2, 2, 3)
    assert module(images)[0, 0].flatten().tolist() == pytest.approx([-2.0, 0.0, 1.0, 3.1])


def test_constant_channel_does_not_divide_by_zero() -> None:
    constant = Channels(mean=[5.0] * 3, std=[0.0] * 3)
    module = build(make_network().model_copy(update={"channels": constant})).eval()
    assert module(torch.full((2, 28, 28, 3), 5, dtype=torch.uint8)).isfinite().all()


def test_mirror_averages_an_image_and_its_mirror_image_except_in_training() -> None:
    torch.manual_seed(0)
    mirrored = build(make_network().model_copy(update={"mirror": True}))
    plain = build(make_network())
    plain.load_state_dict(mirrored.state_dict())
    images = torch.randint(0, 256, (4, 28, 28, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(mirrored.train()(images), plain.train()(images))
        both = [plain.eval()(images), plain(images.flip(2))]
        assert not torch.allclose(*both)
        assert torch.equal(mirrored.eval()(images), sum(both) / 2)
        assert torch.equal(mirrored(images.flip(2)), sum(both) / 2)


def test_width_scales_the_network() -> None:
    def count_parameters(width: int | None) -> int:
        return sum(p.numel() for p in build(make_network("cnn", width=width)).parameters())

    assert count_parameters(None) == count_parameters(32) < count_parameters(64)
