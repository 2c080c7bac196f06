"""Starting weights from files and caches, for another head or another number of channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components.errors import UserError
from components.models import weights
from components.models.architectures import build
from components.models.initial import InitialWeights, find_head
from components.models.initial import load_initial as load_from
from components.models.initial_files import open_init_file
from components.params.init import InitSource
from components.records.splits import Channels
from components.records.training import Network


def make_network(
    architecture: str = "mobilenet_v3_small", classes: int = 2, channels: int = 3, size: int = 32
) -> Network:
    return Network(
        architecture=architecture,
        width=8 if architecture == "cnn" else None,
        shape=(size, size, channels),
        classes=[str(n) for n in range(classes)],
        channels=Channels(mean=[100.0] * channels, std=[50.0] * channels),
        stem="imagenet" if architecture == "resnet18" else "cifar",
    )


def load_initial(network: Network, init: str) -> InitialWeights:
    """Load the weights that a value of `init` names."""
    source = InitSource.parse(init)
    return load_from(network, None if source.kind == "pretrained" else open_init_file(source))


def write_state(path: Path, network: Network) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    state = {k: v.contiguous() for k, v in build(network).network.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return state


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_head_is_left_out_where_the_classes_differ(tmp_path: Path, name: str) -> None:
    state = write_state(tmp_path / name, make_network(classes=5))
    initial = load_initial(make_network(), str(tmp_path / name))
    head = {"classifier.3.weight", "classifier.3.bias"}
    assert initial.state.keys() == state.keys() - head
    assert all(torch.equal(initial.state[name], state[name]) for name in initial.state)
    same = load_initial(make_network(classes=5), str(tmp_path / name))
    assert same.state.keys() == state.keys()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_first_convolution_is_adapted_to_the_channels(tmp_path: Path, channels: int) -> None:
    """A grey image gives the same features as one with that grey in every channel."""
    path = tmp_path / "w.pth"
    write_state(path, make_network())
    three = build(make_network()).network
    three.load_state_dict(load_initial(make_network(), str(path)).state, strict=False)
    other_network = make_network(channels=channels)
    other = build(other_network).network
    other.load_state_dict(load_initial(other_network, str(path)).state, strict=False)
    grey = torch.rand(2, 1, 32, 32)
    first, adapted = (
        next(m for m in module.modules() if isinstance(m, nn.Conv2d)) for module in (three, other)
    )
    torch.testing.assert_close(
        adapted(grey.expand(-1, channels, -1, -1)), first(grey.expand(-1, 3, -1, -1))
    )


def test_own_weights_bring_their_normalisation(tmp_path: Path) -> None:
    source = make_network("cnn", classes=4).model_copy(
        update={"channels": Channels(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])}
    )
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights.serialize(source, build(source).state_dict()))
    initial = load_initial(make_network("cnn"), str(path))
    assert initial.channels == source.channels
    grey = load_initial(make_network("cnn", channels=1), str(path))
    assert grey.channels == Channels(mean=[2.0], std=[5.0])


def test_pretrained_weights_come_from_the_cache_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cached file has the name and the layout of torchvision's, with other numbers in it."""
    from torchvision.models import MobileNet_V3_Small_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = MobileNet_V3_Small_Weights.DEFAULT.url.rpartition("/")[2]
    cache = tmp_path / "hub" / "checkpoints" / name
    cache.parent.mkdir(parents=True)
    state = write_state(cache, make_network(classes=1000))
    initial = load_initial(make_network(), "pretrained")
    assert torch.equal(initial.state["features.0.0.weight"], state["features.0.0.weight"])
    assert initial.channels is not None
    assert initial.channels.mean == pytest.approx([123.675, 116.28, 103.53])


def test_pretrained_weights_that_cannot_be_fetched_are_an_error_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot be fetched .*or give a file: init: PATH"):
        load_initial(make_network(), "pretrained")


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("cnn", r"do not fit cnn: tensors .* missing: .* unknown: "),
        ("squeezenet1_1", "do not fit squeezenet1_1"),
        ("resnet18", "they? need stem: imagenet|do not fit resnet18"),
    ],
)
def test_weights_of_another_network_are_refused_with_the_differences(
    tmp_path: Path, architecture: str, message: str
) -> None:
    path = tmp_path / "w.pth"
    write_state(path, make_network())
    with pytest.raises(UserError, match=message):
        load_initial(make_network(architecture), str(path))


def test_files_that_are_no_weights_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(UserError, match="there is no file"):
        load_initial(make_network(), str(path))
    path.write_bytes(b"weights")
    with pytest.raises(UserError, match="neither a safetensors file nor a state dict"):
        load_initial(make_network(), str(path))
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="is no state dict"):
        load_initial(make_network(), str(path))
    torch.save({"a": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(UserError, match="neither a safetensors file nor a state dict"):
        load_initial(make_network(), str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("cnn", "18"),
        ("resnet18", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
        ("timm/resnet26", "fc"),
        ("timm/tf_efficientnet_lite0", "classifier"),
    ],
)
def test_head_is_the_last_layer(architecture: str, head: str) -> None:
    with torch.device("meta"):
        module = build(make_network(architecture, size=64)).network
    found = find_head(module)
    assert found == head or architecture == "cnn"
    layer = module.get_submodule(found)
    assert 2 in (getattr(layer, "out_features", 0), getattr(layer, "out_channels", 0))
