"""Versions of a registered model: one for each set of weights, found by the weights' digest."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    PERMISSION_DENIED,
    RESOURCE_ALREADY_EXISTS,
    ErrorCode,
)
from torch import nn

from components.errors import UserError
from components.records.receipt import Receipt
from components.records.training import Network
from components.registry import packaging
from components.registry.packaging import LoadedModel, StoredModel
from components.tracking import runs, store

SHA256_TAG = packaging.SHA256_KEY
STATUS_TAG = "validation_status"
FORMAT_TAG = "kiln.format"
# Versions of earlier Kilns have no such tag. They hold no raw weights, and are registered again.
_FORMAT = "2"
_REFERENCE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)(?:@(?P<alias>[a-z][a-z0-9_-]*)|/(?P<version>[0-9]{1,18}))"
)
_SOURCE = re.compile("models:/m-[0-9a-f]{32}")
_CREATE_ATTEMPTS = 8
_MAX_NUMBER = 2**31 - 1  # MLflow keeps numbers of versions in an INTEGER


@dataclass(frozen=True)
class VersionSummary:
    """Summary of one version. `status` is "not evaluated" before the first verdict."""

    version: int
    status: str
    model_id: str
    aliases: list[str]


def find_by_digest(client: MlflowClient, name: str, sha256: str) -> ModelVersion | None:
    """Return the version that holds the weights with this digest, None if there is none.

    Several versions can hold them: two processes registered at the same time, or the client
    repeated a call whose reply was lost. Then all processes use the one with the lowest number. The
    others cannot be in any receipt and are deleted. If this user may not delete versions, their tag
    with the digest is overwritten instead. A version with a verdict or an alias is kept.
    """
    versions = sorted(
        client.search_model_versions(
            f"{_filter_by_name(name)} and tags.`{SHA256_TAG}` = '{sha256}' "
            f"and tags.`{FORMAT_TAG}` = '{_FORMAT}'"
        ),
        key=_number,
    )
    if not versions:
        return None
    duplicates = versions[1:]
    aliased = set(get_aliases(client, name).values()) if duplicates else set()
    for duplicate in duplicates:
        if STATUS_TAG not in duplicate.tags and _number(duplicate) not in aliased:
            _remove_duplicate(client, duplicate, versions[0])
    return versions[0]


def _remove_duplicate(
    client: MlflowClient, duplicate: ModelVersion, original: ModelVersion
) -> None:
    try:
        client.delete_model_version(duplicate.name, duplicate.version)
    except MlflowException as error:
        # With any other error, another process that registers these weights has just deleted it.
        if error.error_code == ErrorCode.Name(PERMISSION_DENIED):
            client.set_model_version_tag(
                duplicate.name,
                duplicate.version,
                SHA256_TAG,
                f"spare of version {original.version}",
            )


def get_model_id(version: ModelVersion) -> str:
    """Return the id of the logged model behind a version.

    The version's own field `model_id` stays empty in MLflow's SQL store.
    """
    return str(version.source).removeprefix("models:/")


def ensure_registered_model(
    client: MlflowClient, name: str, description: str | None = None
) -> None:
    """Create the registered model if it does not exist."""
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def create(
    client: MlflowClient,
    name: str,
    model: str,
    module: nn.Module,
    network: Network,
    sha256: str,
    run_id: str,
    tags: dict[str, str],
) -> ModelVersion:
    """Store a model under the run of its training and register it as a version.

    The version is created after the stored model was read back and checked. If another process
    has registered the same weights meanwhile, its version is returned and none is created.

    Args:
        client: Client of the store.
        name: The registered model, created if it does not exist.
        model: Name of the model in `train.models`.
        module: The model, from uint8 images to logits.
        network: Description of the architecture.
        sha256: Digest of the weights.
        run_id: The run of the training.
        tags: Further tags of the version.

    Raises:
        UserError: The store returned other bytes than it was given. No version was created.
    """
    ensure_registered_model(client, name)
    experiment_id = client.get_run(run_id).info.experiment_id
    entity = packaging.save(module, network, model, run_id, experiment_id)
    for attempt in range(1, _CREATE_ATTEMPTS + 1):
        version = find_by_digest(client, name, sha256)
        if version is not None:
            return version
        try:
            with store.explain_denial(f"add a version to {name}", store.TRAINING_IDENTITY):
                client.create_model_version(
                    name,
                    source=f"models:/{entity.model_id}",
                    run_id=run_id,
                    model_id=entity.model_id,
                    tags={SHA256_TAG: sha256, FORMAT_TAG: _FORMAT, runs.MODEL_TAG: model, **tags},
                    await_creation_for=0,
                )
        except MlflowException:
            # During concurrent registrations the store assigns a number twice and refuses the
            # second. The random pause separates the processes.
            if attempt == _CREATE_ATTEMPTS:
                raise
            time.sleep(random.uniform(0, 0.2 * attempt))  # noqa: S311
    version = find_by_digest(client, name, sha256)
    assert version is not None
    return version


@contextmanager
def open_version(client: MlflowClient, version: ModelVersion) -> Iterator[StoredModel]:
    """Download the files of a version and compute their digests. Nothing is parsed.

    Raises:
        UserError: Kiln did not store them, or they are gone.
    """
    label = f"{version.name} version {version.version}"
    if not _SOURCE.fullmatch(str(version.source)):
        raise UserError(
            f"{label} is refused: its source is {version.source}, and that of a version which Kiln "
            "registered is models:/m-..."
        )
    with packaging.open_stored(client, get_model_id(version), label) as stored:
        yield stored


def load(client: MlflowClient, receipt: Receipt, *, compare_files: bool = True) -> LoadedModel:
    """Load exactly the version that a receipt names.

    Args:
        client: Client of the store.
        receipt: The receipt.
        compare_files: See `packaging.load`.

    Raises:
        UserError: The version does not exist, is from another registry than the receipt, was
            altered, or contains code.
    """
    again = f"register it again with `dvc repro -s -f register@{receipt.model}`"
    try:
        version = get(client, receipt.name, receipt.version)
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    model_id = get_model_id(version)
    if model_id != receipt.model_id:
        raise UserError(
            f"{receipt.name} version {receipt.version} is model {model_id} here, the receipt says "
            f"{receipt.model_id}: it is from another registry; {again}"
        )
    with open_version(client, version) as stored:
        if stored.sha256 != receipt.sha256:
            raise UserError(
                f"{stored.label} does not hold the trained weights: expected sha256 "
                f"{receipt.sha256}, found {stored.sha256}; it was altered after it was registered"
            )
        return packaging.load(stored, compare_files=compare_files)


def get(client: MlflowClient, name: str, number: int) -> ModelVersion:
    """Return a version.

    Raises:
        UserError: It does not exist. The message lists the versions that exist.
    """
    try:
        with store.explain_denial(f"read {name}", store.READERS):
            if number <= _MAX_NUMBER:
                return client.get_model_version(name, str(number))
    except MlflowException as error:
        if not store.is_missing(error):
            raise
    existing = ", ".join(str(v.version) for v in list_versions(client, name)) or "none"
    raise UserError(f"{name} version {number} is not in this registry; versions there: {existing}")


def resolve(client: MlflowClient, reference: str) -> ModelVersion:
    """Return the version that `name@alias` or `name/version` names now.

    Raises:
        UserError: the text is neither, or there is no such model, alias or version.
    """
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise UserError(
            f"{reference!r} is neither name@alias nor name/version (for example "
            "fashion-mnist@champion, fashion-mnist/3; names have only A-Z a-z 0-9 _ . -, aliases "
            "only a-z 0-9 _ -)"
        )
    number = parts["version"]
    if number is None:
        aliases = get_aliases(client, parts["name"])
        if parts["alias"] not in aliases:
            raise UserError(f"{reference}: no such alias; there are {', '.join(aliases) or 'none'}")
        number = aliases[parts["alias"]]
    return get(client, parts["name"], int(number))


def list_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions of a registered model, oldest first."""
    return sorted(client.search_model_versions(_filter_by_name(name)), key=_number)


def get_aliases(client: MlflowClient, name: str) -> dict[str, int]:
    """Return the aliases of a registered model and the number of the version that each names.

    Raises:
        UserError: The registered model does not exist.
    """
    try:
        with store.explain_denial(f"read {name}", store.READERS):
            aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if not store.is_missing(error):
            raise
        raise UserError(
            f"there is no registered model {name!r} in this registry; `dvc repro` registers what "
            "it trains"
        ) from None
    return {alias: int(number) for alias, number in aliases.items()}


def summarize(client: MlflowClient, name: str) -> list[VersionSummary]:
    """Return a summary of each version of a registered model, oldest first."""
    versions = list_versions(client, name)
    aliases = get_aliases(client, name) if versions else {}
    return [
        VersionSummary(
            version=_number(version),
            status=version.tags.get(STATUS_TAG, "not evaluated"),
            model_id=get_model_id(version),
            aliases=[alias for alias, number in aliases.items() if number == _number(version)],
        )
        for version in versions
    ]


def _filter_by_name(name: str) -> str:
    """Return a filter of MLflow, which has no escape for a quotation mark within a text."""
    if "'" in name:
        raise UserError(f"{name!r} cannot be the name of a registered model: it has a quote")
    return f"name = '{name}'"


def _number(version: ModelVersion) -> int:
    return int(version.version)
