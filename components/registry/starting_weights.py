"""Starting weights of trainings: the pin of each `init`, and the files of registered models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from components.errors import UserError
from components.models.initial_files import InitFile, open_init_file
from components.params import Params, load_params
from components.params.init import InitSource
from components.records.receipt import Receipt

if TYPE_CHECKING:
    from mlflow import MlflowClient

_WEIGHTS = "weights.safetensors"


def _connect() -> MlflowClient:
    from components.tracking import store  # imports mlflow, which takes seconds

    return store.connect()


def pin_all(
    params: Params, models: Path, connect: Callable[[], MlflowClient] = _connect
) -> dict[str, str]:
    """Return `init` of each entry of `train.models` that has one, with its digest and version.

    Args:
        params: The parameters.
        models: Folder in which the pipeline puts a folder per model.
        connect: Returns the client of the registry; called only for models of the registry.

    Raises:
        UserError: There are no such weights, they cannot be fetched or differ from a pin, or the
            pipeline itself makes the file.
    """
    connect = cache(connect)
    pinned = {}
    for model, recipe in params.train.models.items():
        if recipe.init is None:
            continue
        source = InitSource.parse(recipe.init)
        try:
            _require_input(source, models, params)
            pinned[model] = str(_pin(source, connect))
        except UserError as error:
            raise UserError(f"train.models.{model}: {error}") from None
    return pinned


def is_outdated(resolved: Path, pinned: dict[str, str]) -> bool:
    """Return whether a resolved parameter file, if there is one, pins other content of a source."""
    try:
        recipes = load_params(resolved).train.models
    except UserError:
        return False
    for model, text in pinned.items():
        before = recipes[model].init if model in recipes else None
        if before not in (None, text):
            return True
    return False


@contextmanager
def open_registered(init: str | None) -> Iterator[InitFile | None]:
    """Fetch the weights of the registered model that an `init` names, None if it names none.

    They are verified as `evaluate` verifies a version. The file is deleted after the block.

    Raises:
        UserError: There is no such version, Kiln did not register it, or it was altered.
    """
    if init is None or (source := InitSource.parse(init)).kind != "registry":
        yield None
        return
    from components.models import weights
    from components.registry import model_versions

    client = _connect()
    source, receipt = _look_up(client, source)
    loaded = model_versions.load(client, receipt, compare_files=False)
    with TemporaryDirectory() as folder:
        path = Path(folder) / _WEIGHTS
        path.write_bytes(weights.serialize(loaded.network, loaded.module.state_dict()))
        yield InitFile(source, path)


def _require_input(source: InitSource, models: Path, params: Params) -> None:
    """Refuse the weights of a stage: DVC does not know that it has to run before this one."""
    if source.kind != "file":
        return
    path = Path(source.location).resolve()
    for other in params.train.models:
        if path.is_relative_to((models / other).resolve()):
            raise UserError(
                f"init: {source.location} is an out of train@{other}, which DVC may run later; "
                "copy the file to another folder, or start with its registered version: "
                "models:/NAME/VERSION"
            )


def _pin(source: InitSource, connect: Callable[[], MlflowClient]) -> InitSource:
    if source.kind == "pretrained":
        return source
    if source.kind == "registry":
        return _look_up(connect(), source)[0]
    return open_init_file(source).source


def _look_up(client: MlflowClient, source: InitSource) -> tuple[InitSource, Receipt]:
    """Return the source with its version and digest, and a receipt of that version."""
    from components.registry import lineage, model_versions
    from components.tracking import runs

    version = lineage.get_lineage(client, source.reference).version
    sha256 = version.tags[model_versions.SHA256_TAG]
    if source.sha256 not in (None, sha256):
        raise UserError(
            f"init: {source.reference} has the weights {sha256}, expected {source.sha256}; it is "
            "from another registry, or a pin in params.yaml has to change"
        )
    receipt = Receipt(
        model=version.tags[runs.MODEL_TAG],
        name=version.name,
        version=int(version.version),
        model_id=model_versions.get_model_id(version),
        sha256=sha256,
    )
    number = int(version.version) if "@" in source.location else None
    return replace(source, version=number, sha256=sha256), receipt
