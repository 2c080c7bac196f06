"""Starting weights: pretrained ones of torchvision and timm, or those in a file.

The head, which is the last linear layer or convolution, is replaced where the classes differ. The
first convolution is adapted to the number of channels. Every other difference is refused.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from components.errors import UserError, first_line
from components.models import weights
from components.models.architectures import BUILDERS, build
from components.models.initial_files import InitFile
from components.models.names import TIMM
from components.records.splits import Channels
from components.records.training import Network

_SHOWN = 5
# Keys under which training scripts store a state dict beside other things.
_STATE_KEYS = ("state_dict", "model", "model_state_dict")
# Heads of torchvision's networks that only training uses.
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_OFFLINE = (
    "; without a network, fill the cache of torch or of the Hugging Face hub on a machine that has "
    "one, or give a file: init: PATH"
)


@dataclass(frozen=True)
class InitialWeights:
    """Tensors of a network (without `network.` before their names), with their normalisation.

    `channels` are the statistics by which the images of the pretraining were normalised, on the
    scale of 0 to 255; None if they are unknown.
    """

    state: dict[str, Tensor]
    channels: Channels | None


def load_initial(network: Network, file: InitFile | None = None) -> InitialWeights:
    """Load the weights with which a network starts, without those of a head for other classes.

    Args:
        network: The network.
        file: Weights of Kiln, another safetensors file, or a state dict that `torch.save` wrote. No
            code of a file is run. None are the pretrained weights of torchvision or timm.

    Raises:
        UserError: There are no such weights, they cannot be fetched, or they do not fit.
    """
    if file is not None:
        label = file.source.location
        return _fit(network, _read_file(file.path, label), label)
    label = f"the pretrained weights of {network.architecture}"
    if network.architecture.startswith(TIMM):
        return _fit(network, _fetch_timm(network, label), label)
    return _fit(network, _fetch_torchvision(network, label), label)


def _fetch_torchvision(network: Network, label: str) -> InitialWeights:
    from torchvision import models

    if network.architecture not in models.list_models(module=models):
        has = [name for name in BUILDERS if name in models.list_models(module=models)]
        raise UserError(
            f"there are no pretrained weights of {network.architecture}; there are of "
            f"{', '.join(has)} (with stem: imagenet), of torchvision's networks and of timm's"
        )
    default: Any = models.get_model_weights(network.architecture).DEFAULT
    try:
        state = default.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{label} cannot be fetched ({error}){_OFFLINE}") from error
    preset = default.transforms()
    return InitialWeights(dict(state), _scale(preset.mean, preset.std))


def _fetch_timm(network: Network, label: str) -> InitialWeights:
    import timm

    name = network.architecture.removeprefix(TIMM)
    if not timm.is_model_pretrained(name):
        raise UserError(f"timm has no pretrained weights of {name}; leave init out")
    try:
        module: Any = timm.create_model(name, pretrained=True, **network.options)
    # timm and the hub's client raise errors of several libraries.
    except Exception as error:
        raise UserError(f"{label} cannot be fetched ({error}){_OFFLINE}") from error
    config = module.pretrained_cfg
    return InitialWeights(dict(module.state_dict()), _scale(config["mean"], config["std"]))


def _scale(mean: Any, std: Any) -> Channels:
    return Channels(mean=[255.0 * value for value in mean], std=[255.0 * value for value in std])


def _read_file(path: Path, label: str) -> InitialWeights:
    """Read a state dict, and the normalisation if the file is one of Kiln's weights."""
    try:
        with safe_open(path, framework="pt") as file:
            is_own = "network" in (file.metadata() or {})
    except SafetensorError:
        return InitialWeights(_read_pickle(path, label), None)
    if not is_own:
        return InitialWeights(load_file(path), None)
    source, state = weights.read(path)
    inner = {
        name.removeprefix("network."): tensor
        for name, tensor in state.items()
        if name.startswith("network.")
    }
    return InitialWeights(inner, source.channels)


def _read_pickle(path: Path, label: str) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"init: {label} is neither a safetensors file nor a state dict that `torch.save` wrote "
            f"({first_line(error)}); save the state dict alone"
        ) from None
    for key in _STATE_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"init: {label} is no state dict: a mapping of names to tensors is needed")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _fit(network: Network, initial: InitialWeights, label: str) -> InitialWeights:
    """Return weights in the shapes of a network, without a head that does not fit."""
    with torch.device("meta"):
        module = build(network).network
    expected = module.state_dict()
    head = {f"{find_head(module)}.{part}" for part in ("weight", "bias")}
    given = {k: v for k, v in initial.state.items() if not k.startswith(_AUXILIARY)}
    first = next(k for k, v in expected.items() if v.ndim == 4)
    if first in given and given[first].ndim == 4:
        given[first] = _adapt_channels(given[first], expected[first].shape[1])
    counters = {k for k in expected if k.endswith("num_batches_tracked")}
    state = {
        name: tensor.to(expected[name].dtype)
        for name, tensor in given.items()
        if name in expected and tensor.shape == expected[name].shape
    }
    wrong = [
        f"{name} ({tuple(given[name].shape)}, needed {tuple(expected[name].shape)})"
        for name in sorted(given.keys() & expected.keys() - head - state.keys())
    ]
    missing = sorted(expected.keys() - given.keys() - head - counters)
    unknown = sorted(given.keys() - expected.keys() - head)
    if differences := [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("of other shapes", wrong), ("missing", missing), ("unknown", unknown))
        if names
    ]:
        stem = "; these weights need stem: imagenet" if network.architecture in BUILDERS else ""
        raise UserError(
            f"{label} do not fit {network.architecture}: tensors {'; '.join(differences)}{stem}"
        )
    if head - state.keys():  # a head is replaced as a whole
        state = {name: tensor for name, tensor in state.items() if name not in head}
    return InitialWeights(state, _adapt_normalisation(initial.channels, network.shape[2]))


def find_head(module: nn.Module) -> str:
    """Return the path of the head: the last linear layer or convolution of a network."""
    layers: list[str] = [
        name for name, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    ]
    return layers[-1]


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt a convolution `(O, C, h, w)` to images of another number of channels.

    The sum over the channels stays, so that a grey image gives the same features. Fewer channels
    get the mean filter, more channels repeat the filters and divide each among its copies.
    """
    given = weight.shape[1]
    if given == channels:
        return weight
    if channels < given:
        return weight.sum(1, keepdim=True).repeat(1, channels, 1, 1) / channels
    source = torch.arange(channels) % given
    copies = source.bincount()[source].view(1, -1, 1, 1)
    return weight[:, source] / copies


def _adapt_normalisation(channels: Channels | None, number: int) -> Channels | None:
    if channels is None or len(channels.mean) == number:
        return channels
    mean = sum(channels.mean) / len(channels.mean)
    std = sum(channels.std) / len(channels.std)
    return Channels(mean=[mean] * number, std=[std] * number)
