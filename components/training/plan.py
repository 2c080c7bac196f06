"""What one training is to be, known before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import provenance
from components.data.format.shards import read_manifest
from components.errors import UserError
from components.params import Params, Recipe
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
class Plan:
    """`facts` and `digests` are all that decides the weights, besides the code; `fingerprint` is the digest of all three."""

    model: str
    recipe: Recipe
    network: Network
    data: dict[str, Path]
    facts: dict[str, Any]
    digests: dict[str, str]
    fingerprint: str

    @property
    def inputs(self) -> dict[str, tuple[str, str]]:
        """Path and digest of the training and the validation split."""
        return {name: (str(path), self.digests[name]) for name, path in self.data.items()}


def describe(recipe: Recipe, train: Manifest, val: Manifest) -> Network:
    """The network of a recipe for these data. Raises `UserError` if training and validation data do not fit each other."""
    if (train.shape, train.classes) != (val.shape, val.classes) or train.channels is None:
        raise UserError(
            f"training data {train.shape} with {len(train.classes)} classes and validation data {val.shape} with "
            f"{len(val.classes)} do not belong together; `dvc repro preprocess augment` makes both anew"
        )
    return Network(
        architecture=recipe.architecture,
        width=recipe.width,
        shape=train.shape,
        classes=train.classes,
        channels=train.channels,
        mirror=recipe.mirror,
        stem=recipe.stem_for(*train.shape[:2]),
    )


def plan(params: Params, model: str, train: Path, val: Path) -> Plan:
    """Raises `UserError` for a model that params do not have and for data that are missing or do not fit each other."""
    settings = params.train
    if model not in settings.models:
        raise UserError(f"--model {model}: not in train.models of params.yaml, which has {', '.join(settings.models)}")
    recipe = settings.models[model]
    manifests = {"training": read_manifest(train), "validation": read_manifest(val)}
    digests = manifests["training"].origin | {name: manifest.sha256 for name, manifest in manifests.items()}
    # The number of workers does not change what comes out, only how a batch is cut does.
    facts = {
        "recipe": recipe.model_dump(mode="json"),
        "train": settings.model_dump(mode="json", include={"cpus_per_worker", "device", "precision"})
        | {"global_batch_size": settings.batch_size(model), "micro_batches": settings.micro_batches(model)},
        "seed": params.seed,
    }
    return Plan(
        model=model,
        recipe=recipe,
        network=describe(recipe, manifests["training"], manifests["validation"]),
        data={"training": train, "validation": val},
        facts=facts,
        digests=digests,
        fingerprint=provenance.fingerprint(CODE, facts | digests),
    )
