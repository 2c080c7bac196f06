"""Division of a network's parameters into groups with learning rates of their own."""

from __future__ import annotations

from torch import nn

from components.models.initial import find_head
from components.params import Recipe

_CONTAINERS = (nn.Sequential, nn.ModuleList)

Group = tuple[list[nn.Parameter], float]
"""Parameters and their peak learning rate."""


def divide_parameters(model: nn.Module, recipe: Recipe) -> list[Group]:
    """Return all parameters with their learning rates: the head, then the layers before it.

    Layers have rates of their own with `recipe.backbone_learning_rate` and `recipe.layer_decay`.
    Without them there is one group. Frozen parameters are in their groups, too.
    """
    if recipe.backbone_learning_rate == 1 and recipe.layer_decay == 1:
        return [(list(model.parameters()), recipe.learning_rate)]
    head = list(model.get_submodule(find_head(model)).parameters())
    rate = recipe.learning_rate * recipe.backbone_learning_rate
    if recipe.layer_decay == 1:
        in_head = set(head)
        backbone = [p for p in model.parameters() if p not in in_head]
        return [(head, recipe.learning_rate), (backbone, rate)]
    layers = list_layers(getattr(model, "network", model), head)
    return [(head, recipe.learning_rate)] + [
        (layer, rate * recipe.layer_decay**distance)
        for distance, layer in enumerate(reversed(layers), 1)
    ]


def list_layers(network: nn.Module, head: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the parameters of each layer before the head, in the order of the modules.

    A layer is a child of the network or of its containers (`nn.Sequential`, `nn.ModuleList`, also
    within one another), such as a residual block. A normalisation belongs to the layer before it.
    Parameters of the network itself, such as embeddings of positions, belong to the first layer.
    As the layer-wise decay of timm and of BEiT (arXiv:2106.08254), for networks of any origin.
    """
    layers: list[list[nn.Parameter]] = []
    in_layer = set(head)
    for module in _list_blocks(network):
        layer = [p for p in module.parameters() if p not in in_layer]
        in_layer.update(layer)
        if layers and all(p.ndim < 2 for p in layer):
            layers[-1] += layer
        elif layer:
            layers.append(layer)
    others = [p for p in network.parameters() if p not in in_layer]
    if not layers:
        return [others] if others else []
    return [others + layers[0], *layers[1:]]


def _list_blocks(network: nn.Module) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for child in network.children():
        # The encoder of torchvision's vision transformer holds the container of its blocks.
        inner = [m for m in child.children() if isinstance(m, _CONTAINERS)]
        is_wrapper = any(2 * _count(m) > _count(child) for m in inner)
        if is_wrapper and not isinstance(child, _CONTAINERS):
            blocks += _list_blocks(child)
        else:
            blocks += _unpack(child)
    return blocks


def _unpack(module: nn.Module) -> list[nn.Module]:
    if not isinstance(module, _CONTAINERS):
        return [module]
    return [block for child in module.children() for block in _unpack(child)]


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
