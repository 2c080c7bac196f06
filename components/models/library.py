"""Networks that others define: torchvision's, timm's and a user's own, by name.

`NAME` is a classification network of torchvision, `timm/NAME` one of timm, and `MODULE:FUNCTION` a
function of the user, which is called with the number of channels, the number of classes and the
options of the recipe.

A description can come from a registry that others may write to. So a user's function must be
defined in this repository under a name that begins with `build`, and options of timm that load
files are refused.
"""

from __future__ import annotations

import inspect

import torch
from torch import nn

from components.errors import UserError, first_line
from components.models.names import TIMM, check_architecture, import_builder
from components.records.training import Network

_SIZES = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 320, 384, 448, 512)
# Their loss needs the logits of an auxiliary head, which Kiln's loop does not take.
_WITHOUT_AUXILIARY_HEAD = {"googlenet", "inception_v3"}


def build_from_library(network: Network) -> nn.Module:
    """Build the network that an architecture names, with random weights.

    The module maps `float (N, C, H, W)` to logits `(N, K)`.

    Raises:
        UserError: There is no such network, or it does not take the options.
    """
    name = network.architecture
    check_architecture(name)
    try:
        if name.startswith(TIMM):
            return _build_timm(network)
        if ":" in name:
            return _build_own(network)
        return _build_torchvision(network)
    except (TypeError, ValueError, AssertionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"architecture {name} with the options {network.options or '{}'} cannot be built: "
            f"{error}"
        ) from error


def _build_torchvision(network: Network) -> nn.Module:
    # Imported here because torchvision costs seconds, and only these architectures need it.
    from torchvision import models

    name = network.architecture
    options = dict(network.options)
    if name in _WITHOUT_AUXILIARY_HEAD:
        options = {"aux_logits": False, "init_weights": True} | options
        if options["aux_logits"]:
            raise UserError(f"{name} is trained without its auxiliary head: leave out aux_logits")
    module: nn.Module = models.get_model(
        name, weights=None, num_classes=len(network.classes), **options
    )
    _adapt_first_convolution(module, network.shape[2])
    return module


def _adapt_first_convolution(module: nn.Module, channels: int) -> None:
    """Replace the first convolution of a network for three channels."""
    if channels == 3:
        return
    path, conv = next(
        (path, child) for path, child in module.named_modules() if isinstance(child, nn.Conv2d)
    )
    first = nn.Conv2d(
        channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        (conv.stride[0], conv.stride[1]),
        conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1]),
        bias=conv.bias is not None,
    )
    module.set_submodule(path, first)


def _build_timm(network: Network) -> nn.Module:
    import timm

    name = network.architecture.removeprefix(TIMM)
    reserved = network.options.keys() & inspect.signature(timm.create_model).parameters.keys()
    if reserved:
        raise UserError(f"options of {network.architecture} cannot have {', '.join(reserved)}")
    module: nn.Module = timm.create_model(
        name,
        pretrained=False,
        num_classes=len(network.classes),
        in_chans=network.shape[2],
        **network.options,
    )
    return module


def _build_own(network: Network) -> nn.Module:
    function = import_builder(network.architecture)
    module = function(network.shape[2], len(network.classes), **network.options)
    if not isinstance(module, nn.Module):
        raise UserError(
            f"{network.architecture} returned {type(module).__name__}; a torch.nn.Module is needed"
        )
    return module


def check_size(module: nn.Module, network: Network) -> None:
    """Run a network on the meta device, which computes shapes only, for images of its size.

    Args:
        module: The network, built on the meta device.
        network: Its description.

    Raises:
        UserError: It does not take such images. The message names square sizes that it takes.
    """
    height, width, channels = network.shape
    error = _try_size(module, network, height, width)
    if error is None:
        return
    sizes = _list_sizes(module, network)
    option = "img_size" if network.architecture.startswith(TIMM) else "image_size"
    takes = f"it takes {', '.join(map(str, sizes))}, for example" if sizes else "no size works"
    raise UserError(
        f"{network.architecture} does not take images of {height} x {width} x {channels} "
        f"({error}); {takes}: set preprocess.image_size. Some networks are built for another size "
        f"with options: {{{option}: {height}}}"
    )


def check_train_size(
    module: nn.Module, network: Network, height: int, width: int, device: str
) -> None:
    """Check as `check_size` does that a network takes images of the recipe's `train_size`.

    Args:
        module: The network, built on `device`.
        network: Its description.
        height: Height of the images that it is trained on.
        width: Width of these images.
        device: `meta`, or `cpu` for a network with layers that cannot run there.

    Raises:
        UserError: It does not. The message names square sizes that it takes.
    """
    error = _try_size(module, network, height, width, device)
    if error is None:
        return
    sizes = _list_sizes(module, network, min(network.shape[:2]), device)
    takes = f"set train_size to {' or '.join(map(str, sizes))}, or " if sizes else ""
    raise UserError(
        f"{network.architecture} for images of {network.shape[0]} x {network.shape[1]} cannot be "
        f"trained on images of {height} x {width} ({error}); {takes}leave train_size out"
    )


def _list_sizes(
    module: nn.Module, network: Network, largest: int = _SIZES[-1], device: str = "meta"
) -> list[int]:
    """Return sides of square images that a network takes, up to the largest that is asked for."""
    return [
        size
        for size in _SIZES
        if size <= largest and _try_size(module, network, size, size, device) is None
    ]


def _try_size(
    module: nn.Module, network: Network, height: int, width: int, device: str = "meta"
) -> str | None:
    """Return the reason for which a network cannot take images of a size, None if it can."""
    classes = len(network.classes)
    images = torch.zeros((2, network.shape[2], height, width), device=device)
    for training in (True, False):
        module.train(training)
        try:
            with torch.no_grad():
                logits = module(images)
        except Exception as error:  # noqa: BLE001 - a network may raise anything
            return first_line(error)[:200]
        if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
            found = (
                tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            )
            return f"it returns {found} in place of logits (2, {classes})"
    return None
