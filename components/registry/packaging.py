"""Models as files: raw weights, and the pt2 program for MLflow's users that is made from them.

Kiln does not load a program that was stored: `torch.export.load` evaluates expressions that the
file contains. It reads `weights.safetensors`, builds the network that the header describes, and
makes the other files again to compare them.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow import pytorch as flavor
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from components.errors import UserError
from components.files import sha256_file
from components.models import weights
from components.models.architectures import restore
from components.provenance import LIBRARIES, environment
from components.records.training import Network
from components.tracking import artifacts, store

SHA256_KEY = "kiln.sha256"
WEIGHTS = "weights.safetensors"
PROGRAM = "data/model.pt2"
_DESCRIPTION = "MLmodel"
_REQUIREMENTS = "requirements.txt"
_TEXTS = (
    _DESCRIPTION,
    _REQUIREMENTS,
    "conda.yaml",
    "input_example.json",
    "python_env.yaml",
    "serving_input_example.json",
)
FILES = frozenset({WEIGHTS, PROGRAM, *_TEXTS})
"""All files of a stored model. A model with any other file is refused."""

_NETWORK_KEY = "kiln.network"
# Versions of libraries, which differ between two environments: fields of MLmodel and python_env,
# and version specifiers of requirements.
_VERSIONS = re.compile(
    r"(?<=_version: ).*$|(?<=model_size_bytes: ).*$|(?<=^python: ).*$|[<=>]=?\d[\w.+!]*",
    re.MULTILINE,
)
# Networks of libraries can be exported to other kernels than their modules call.
_TOLERANCE = 1e-4
# torch.export is global to the process, not to a thread.
_EXPORT_LOCK = threading.Lock()


@dataclass(frozen=True)
class StoredModel:
    """A downloaded model of which nothing was parsed yet.

    `digests` maps the path of each file to its SHA-256. `label` names the model in messages.
    """

    label: str
    entity: LoggedModel
    folder: Path
    digests: dict[str, str]

    @property
    def sha256(self) -> str:
        """The digest of the weights."""
        return self.digests[WEIGHTS]

    @property
    def files_sha256(self) -> str:
        """The digest of the paths and digests of all files."""
        lines = (f"{digest}  {path}\n" for path, digest in sorted(self.digests.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class LoadedModel:
    """A model built from stored weights.

    `module` turns uint8 images into logits. `sha256` is the digest of the weights
    (`components.models.weights`), `files_sha256` that of all files of the model. `reproduced` is
    true if this process made the same files again from the weights, and false if it could not
    because other versions of the libraries made them.
    """

    module: nn.Module
    network: Network
    sha256: str
    files_sha256: str
    reproduced: bool


def save(
    module: nn.Module, network: Network, name: str, run_id: str, experiment_id: str
) -> LoggedModel:
    """Store a model under a run, then read it back and compare it.

    Args:
        module: The model, from uint8 images to logits.
        network: Description of the architecture.
        name: Name of the logged model.
        run_id: The run.
        experiment_id: The experiment that the run is in.

    Raises:
        UserError: The store could not take the model, or it returned another one.
    """
    client = MlflowClient()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        try:
            with store.explain_denial("store a model", store.TRAINING_IDENTITY):
                entity = client.create_logged_model(experiment_id, name, source_run_id=run_id)
                write(folder, module, network, entity)
                client.log_model_artifacts(entity.model_id, str(folder))
                client.finalize_logged_model(entity.model_id, "READY")
                client.log_outputs(run_id, [LoggedModelOutput(entity.model_id, step=0)])
        except (OSError, MlflowException) as error:
            raise UserError(
                f"the model could not be stored ({type(error).__name__}: {error}); no version was "
                "made. Is there room where the artifacts are kept? `dvc repro` tries again"
            ) from error
        with open_stored(client, entity.model_id, f"model {entity.model_id}") as stored:
            _require_same(stored, _digest_files(folder))
    return entity


def _require_same(stored: StoredModel, written: dict[str, str]) -> None:
    for path, digest in written.items():
        if stored.digests[path] != digest:
            raise UserError(
                f"{stored.label} does not hold what was stored there: {path} was written with "
                f"sha256 {digest}, found {stored.digests[path]}; no version was made, run "
                "`dvc repro` again"
            )


def write(folder: Path, module: nn.Module, network: Network, entity: LoggedModel) -> None:
    """Write the files of a model, for `mlflow.pytorch`, `mlflow.pyfunc` and Kiln.

    The same model and entity give the same bytes in every checkout, with the same versions of the
    libraries and of Python.

    Args:
        folder: Path that does not exist yet.
        module: The model, from uint8 images to logits.
        network: Description of the architecture.
        entity: The logged model, whose id, run and time are in the description.

    Raises:
        RuntimeError: The exported program gives other logits than the module.
    """
    libraries = environment()
    created = datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC)
    content = weights.serialize(network, module.state_dict())
    description = Model(
        run_id=entity.source_run_id,
        model_id=entity.model_id,
        model_uuid=entity.model_id.removeprefix("m-"),
        utc_time_created=created.replace(tzinfo=None),
    )
    with _EXPORT_LOCK:
        flavor.save_model(
            module.eval(),
            folder,
            mlflow_model=description,
            serialization_format="pt2",
            # Two images, because torch.export would fix a batch size of one as a constant.
            input_example=np.zeros((2, *network.shape), np.uint8),
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype(np.uint8), (-1, *network.shape))]),
                Schema([TensorSpec(np.dtype(np.float32), (-1, len(network.classes)))]),
            ),
            pip_requirements=[
                f"{lib}=={libraries[f'version.{lib}'].split('+')[0]}"
                for lib in LIBRARIES
                if lib in ("mlflow", "torch", "numpy")
            ],
            metadata={
                _NETWORK_KEY: network.model_dump_json(),
                SHA256_KEY: hashlib.sha256(content).hexdigest(),
            },
        )
        _normalize_program(folder / PROGRAM, module, network)
    (folder / WEIGHTS).write_bytes(content)
    description.model_size_bytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    description.save(str(folder / _DESCRIPTION))


def _normalize_program(path: Path, module: nn.Module, network: Network) -> None:
    """Remove this checkout's paths from a program that was just written, and check its logits."""
    program = torch.export.load(path)
    for graph_module in program.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            for node in graph_module.graph.nodes:
                node.meta.pop("stack_trace", None)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, *network.shape), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        same = torch.allclose(
            program.module()(images), module(images), rtol=_TOLERANCE, atol=_TOLERANCE
        )
        if not same:
            raise RuntimeError("torch.export made a program that gives other logits than the model")
    torch.export.save(program, path)


@contextmanager
def open_stored(client: MlflowClient, model_id: str, label: str) -> Iterator[StoredModel]:
    """Download a model into a temporary folder and compute its digests.

    Raises:
        UserError: The model is gone, or does not consist of exactly the files that Kiln stores.
    """
    with tempfile.TemporaryDirectory() as scratch:
        entity, folder = artifacts.download_model(client, model_id, FILES, Path(scratch), label)
        yield StoredModel(label, entity, folder, _digest_files(folder))


def load(stored: StoredModel, *, compare_files: bool = True) -> LoadedModel:
    """Build a model from its stored weights.

    The caller has compared the digest of the weights with the one that it expects.

    Args:
        stored: The downloaded model.
        compare_files: Make the other files again and compare them, which takes seconds.

    Raises:
        UserError: The weights are not a model's that this version of Kiln knows, or another file
            is not the one that belongs to them.
    """
    network, state = weights.read(stored.folder / WEIGHTS)
    module = restore(network, state).eval()
    reproduced = compare_files and _is_reproduced(stored, module, network)
    return LoadedModel(module, network, stored.sha256, stored.files_sha256, reproduced)


def _is_reproduced(stored: StoredModel, module: nn.Module, network: Network) -> bool:
    """Make the files of a model from its weights and compare them with those that were stored.

    Returns:
        False if the program cannot be compared, because another version of torch or MLflow made it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write(folder, module, network, stored.entity)
        altered = [
            name
            for name in _TEXTS
            if _mask_versions(folder, name) != _mask_versions(stored.folder, name)
        ]
        digests = _digest_files(folder)
    comparable = digests[_REQUIREMENTS] == stored.digests[_REQUIREMENTS]
    if comparable and digests[PROGRAM] != stored.digests[PROGRAM]:
        altered.append(PROGRAM)
    if altered:
        raise UserError(
            f"{stored.label} is refused: {', '.join(altered)} is not what Kiln makes from its "
            "weights, so that MLflow's users would be served something else; it was altered, or "
            "stored by another version of Kiln or MLflow. Register the weights under another "
            "register.name, and find out who wrote these files"
        )
    return comparable


def _mask_versions(folder: Path, name: str) -> str:
    return _VERSIONS.sub("", (folder / name).read_text(encoding="utf-8", errors="surrogateescape"))


def _digest_files(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in sorted(FILES)}
