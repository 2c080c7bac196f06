"""The plan of one training, known before anything is started. Imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import provenance
from components.data.format.shards import read_manifest
from components.errors import UserError
from components.files import sha256_file
from components.models.initial_files import InitFile, open_init_file
from components.models.stems import choose_stem
from components.params import Params, Recipe
from components.params.init import InitSource
from components.paths import ROOT
from components.records.splits import Manifest
from components.records.training import Network

CODE = (
    "components/data/format",
    "components/data/loading",
    "components/models",
    "components/records/splits.py",
    "components/records/training.py",
    "components/training",
)
"""The code that determines the weights. `dvc.yaml` lists the same for `train` (a test compares)."""


@dataclass(frozen=True)
class TrainingPlan:
    """Inputs of one training.

    `settings` and `digests` determine the weights, together with the code of `CODE`. `fingerprint`
    is the digest of all three.

    Attributes:
        model: name of the entry of `train.models`.
        train_data: folder of the training split.
        val_data: folder of the validation split.
        settings: recipe, training settings and seed, as JSON values.
        digests: SHA-256 of the splits (`training`, `validation`), of their origins and of the file
            of starting weights (`init`; of the tensors of pretrained ones).
        initial: starting weights as a safetensors file, None for random ones.
    """

    model: str
    recipe: Recipe
    network: Network
    train_data: Path
    val_data: Path
    settings: dict[str, Any]
    digests: dict[str, str]
    fingerprint: str
    initial: bytes | None = None

    @property
    def inputs(self) -> dict[str, tuple[str, str]]:
        """Path and digest of the training and the validation split."""
        paths = {"training": self.train_data, "validation": self.val_data}
        return {split: (str(path), self.digests[split]) for split, path in paths.items()}


def describe_network(recipe: Recipe, train: Manifest, val: Manifest) -> Network:
    """Return the network of a recipe for two splits.

    Raises:
        UserError: the splits do not fit each other, or their images are smaller than `train_size`.
    """
    if (train.shape, train.classes) != (val.shape, val.classes) or train.channels is None:
        raise UserError(
            f"training data {train.shape} with {len(train.classes)} classes and validation data "
            f"{val.shape} with {len(val.classes)} do not belong together; "
            "`dvc repro preprocess augment` makes both anew"
        )
    if recipe.train_sides and any(
        side > most for side, most in zip(recipe.train_sides, train.shape, strict=False)
    ):
        height, width, _ = train.shape
        raise UserError(
            "train_size is {} x {}, larger than the prepared images".format(*recipe.train_sides)
            + f" ({height} x {width}); lower it, leave it out, or raise preprocess.image_size"
        )
    return Network(
        architecture=recipe.architecture,
        width=recipe.width,
        shape=train.shape,
        classes=train.classes,
        channels=train.channels,
        mirror=recipe.mirror,
        options=recipe.options,
        stem=choose_stem(recipe.architecture, recipe.stem, *train.shape[:2]),
        preparation=train.preparation,
    )


def make_plan(
    params: Params, model: str, train: Path, val: Path, registered: InitFile | None = None
) -> TrainingPlan:
    """Return the plan for the entry `model` of `train.models` and the splits at two paths.

    `registered` has the weights of the registered model that the entry starts with, if it does.

    Raises:
        UserError: there is no such entry, the splits are missing or do not fit each other, or the
            starting weights are missing or do not fit the network.
    """
    models = params.train.models
    if model not in models:
        raise UserError(
            f"--model {model}: not in train.models of params.yaml, which has {', '.join(models)}"
        )
    recipe = models[model]
    train_manifest = read_manifest(train)
    val_manifest = read_manifest(val)
    digests = train_manifest.origin | {
        "training": train_manifest.sha256,
        "validation": val_manifest.sha256,
    }
    settings = _settings(params, model)
    network = describe_network(recipe, train_manifest, val_manifest)
    initial = None
    if recipe.init is not None:
        source = InitSource.parse(recipe.init)
        file = registered
        if source.kind in ("file", "url"):
            file = open_init_file(source)
        network, initial = _load_initial(network, file)
        source = file.source if file else source
        digests["init"] = source.sha256 or hashlib.sha256(initial).hexdigest()
        # The same in params.yaml and in data/params.yaml, which has the digest too.
        settings["recipe"]["init"] = str(source.without_digest())
    return TrainingPlan(
        model=model,
        recipe=recipe,
        network=network,
        train_data=train,
        val_data=val,
        settings=settings,
        digests=digests,
        fingerprint=provenance.fingerprint(CODE, settings | digests | _own_code(recipe)),
        initial=initial,
    )


def _load_initial(network: Network, file: InitFile | None) -> tuple[Network, bytes]:
    """Return a network with the normalisation of its starting weights, and these.

    None are the pretrained weights.
    """
    from safetensors.torch import save  # imports torch

    from components.models.initial import load_initial

    initial = load_initial(network, file)
    if initial.channels is not None:
        network = network.model_copy(update={"channels": initial.channels})
    return network, save({name: t.contiguous() for name, t in sorted(initial.state.items())})


def _own_code(recipe: Recipe) -> dict[str, str]:
    """Return the digest of the module that defines a user's own architecture, empty for others."""
    module, is_own, _ = recipe.architecture.partition(":")
    if not is_own:
        return {}
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        raise UserError(
            f"architecture {recipe.architecture}: there is no {path}; name a module of this "
            "repository"
        )
    return {"architecture_code": sha256_file(path)}


def _settings(params: Params, model: str) -> dict[str, Any]:
    """Return the settings that determine the weights.

    They include the number of micro-batches per global batch, but not the number of workers.
    """
    train = params.train
    fields = {"cpus_per_worker", "device", "precision"}
    batches = {
        "global_batch_size": train.global_batch_size_of(model),
        "micro_batches": train.num_micro_batches(model),
    }
    # `batches` has the effective sizes. The recipe's own are null in params.yaml and filled in
    # data/params.yaml, and both files describe the same training.
    sizes = {"global_batch_size", "micro_batch_size"}
    if train.reduction != "ordered":  # left out by default, so that older fingerprints stay
        fields.add("reduction")
    return {
        "recipe": train.models[model].model_dump(mode="json", exclude=sizes),
        "train": train.model_dump(mode="json", include=fields) | batches,
        "seed": params.seed,
    }
