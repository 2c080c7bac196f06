"""Recipes by name: ordinary keys of a recipe, chosen by measurement.

`docs/how-to/recipes.md` has the accuracy and the cost of each.
"""

from __future__ import annotations

from typing import Any, Literal

RecipeName = Literal["linear_probe", "scratch_small"]

RECIPES: dict[str, dict[str, Any]] = {
    "linear_probe": {
        # A small network, through which a laptop sends hundreds of photographs in a minute.
        "architecture": "timm/tf_efficientnet_lite0",
        "init": "pretrained",
        "freeze_backbone": True,
        "mirror": True,
        "epochs": 20,
        "learning_rate": 0.003,
        "weight_decay": 1e-3,
        "global_batch_size": 32,
        "micro_batch_size": 16,
        "augment": {"flip": 0.5},
    },
    "scratch_small": {
        "architecture": "cnn",
        "width": 16,
        "mirror": True,
        "epochs": 4,
        "learning_rate": 0.3,
        "muon": {"learning_rate": 0.08},
        "weight_decay": 1e-3,
        "warmup_epochs": 0.15,
        "label_smoothing": 0.05,
        "global_batch_size": 128,
        "micro_batch_size": 32,
        "augment": {"flip": 0.5},
    },
}


# Keys that belong to the value of another key. They leave a named recipe with it.
_DEPENDENT_KEYS = {
    "architecture": ("options", "stem", "width", "muon"),
    "optimizer": ("momentum", "muon"),
    "schedule": ("warmup_epochs",),
}


def expand(values: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a recipe with those of the named recipe that `recipe` selects.

    Keys that are given win. Within a section such as `augment` they win one by one, unless its
    `name` selects another kind. Another architecture, optimiser or schedule is not given keys that
    it may not have.
    """
    name = values.get("recipe")
    if not isinstance(name, str) or name not in RECIPES:  # which the schema refuses, or null
        return values
    named = RECIPES[name]
    dropped = {
        dependent
        for key, dependents in _DEPENDENT_KEYS.items()
        if key in values and values[key] != named.get(key)
        for dependent in dependents
    }
    return _merge({key: value for key, value in named.items() if key not in dropped}, values)


def _merge(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = defaults | values
    for key in defaults.keys() & values.keys():
        default, value = defaults[key], values[key]
        if isinstance(default, dict) and isinstance(value, dict):
            same_kind = default.get("name") == value.get("name", default.get("name"))
            merged[key] = _merge(default, value) if same_kind else value
    return merged
