"""Models as files: stored in the pt2 format, loaded without running code that came with them."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
import yaml
from mlflow import pytorch as flavor
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import Schema, TensorSpec
from torch import nn

from components.errors import UserError
from components.files import sha256_file
from components.models import weights
from components.provenance import LIBRARIES, environment
from components.records.training import Network
from components.tracking import store

SHA256_KEY = "kiln.sha256"
_NETWORK_KEY = "kiln.network"
# MLflow adds this file to every copy of a registered model that it hands out.
_ADDED_FILE = "registered_model_meta"
_TOLERANCE = 1e-4
# torch.export and MLflow's current experiment are global to the process, not to a thread.
_SAVE_LOCK = threading.Lock()


@dataclass(frozen=True)
class LoadedModel:
    """A stored model.

    `module` turns uint8 images into logits. `sha256` is the digest of the weights
    (`components.models.weights`), `files_sha256` that of all files of the model.
    """

    module: nn.Module
    network: Network
    sha256: str
    files_sha256: str


def save(
    module: nn.Module, network: Network, sha256: str, name: str, run_id: str, experiment_id: str
) -> ModelInfo:
    """Log a model under a run, then load it and compare it with the original.

    Args:
        module: The model, from uint8 images to logits.
        network: Description of the architecture.
        sha256: Digest of the weights.
        name: Name of the logged model.
        run_id: The run.
        experiment_id: The experiment that the run is in.

    Raises:
        UserError: The store could not take the model, or it returned another one.
    """
    try:
        with _SAVE_LOCK, store.explain_denial("store a model", store.TRAINING_IDENTITY):
            # MLflow files a model under the current experiment, whatever experiment its run is in.
            mlflow.set_experiment(experiment_id=experiment_id)
            info = _log(module, network, sha256, name, run_id)
    except (OSError, MlflowException) as error:
        raise UserError(
            f"the model could not be stored ({type(error).__name__}: {error}); no version was "
            "made. Is there room where the artifacts are kept? `dvc repro` tries again"
        ) from error
    _check_stored(info.model_uri, module, network, sha256)
    return info


def _check_stored(model_uri: str, module: nn.Module, network: Network, sha256: str) -> None:
    stored = load(model_uri)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, *network.shape), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        expected = module(images)
        actual = stored.module(images)
    same = torch.allclose(expected, actual, rtol=_TOLERANCE, atol=_TOLERANCE)
    if stored.sha256 != sha256 or not same:
        raise UserError(
            f"{model_uri} does not hold what was stored there: expected sha256 {sha256}, found "
            f"{stored.sha256}, logits differ by {(expected - actual).abs().max():.2g}; no version "
            "was made, run `dvc repro` again"
        )


def _log(module: nn.Module, network: Network, sha256: str, name: str, run_id: str) -> ModelInfo:
    libraries = environment()
    return flavor.log_model(
        module.eval(),
        name=name,
        run_id=run_id,
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
        metadata={_NETWORK_KEY: network.model_dump_json(), SHA256_KEY: sha256},
    )


def load(model_uri: str) -> LoadedModel:
    """Download a model and load it.

    Raises:
        UserError: Kiln did not store the model, or it contains code or a pickle. No code of the
            model has run.
    """
    with tempfile.TemporaryDirectory() as folder:
        with store.explain_denial(f"read {model_uri}", store.READERS):
            path = Path(download_artifacts(artifact_uri=model_uri, dst_path=folder))
        described = yaml.safe_load((path / "MLmodel").read_text())
        _refuse_code(model_uri, path, described)
        network = Network.model_validate_json(described["metadata"][_NETWORK_KEY])
        try:
            module = flavor.load_model(str(path))
        except MlflowException as error:
            raise UserError(f"{model_uri} is refused: {error}") from None
        files_sha256 = _digest_files(path)
    digest = weights.sha256(network, dict(module.state_dict()))
    return LoadedModel(module, network, digest, files_sha256)


def _digest_files(folder: Path) -> str:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != _ADDED_FILE)
    lines = (f"{sha256_file(file)}  {file.relative_to(folder)}\n" for file in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _refuse_code(model_uri: str, path: Path, described: dict[str, Any]) -> None:
    """Raise `UserError` if loading the model could run code that is stored with it.

    MLflow puts a model's `code/` on the import path and imports its `loader_module`, both before
    any check of its own. `described` is the content of the file `MLmodel`.
    """
    flavors = described.get("flavors", {})
    reasons = [
        f"its flavor {name} brings code" for name, config in flavors.items() if config.get("code")
    ]
    if (path / "code").exists():
        reasons.append("it has a folder code/")
    reasons += [
        f"its flavor {name} is loaded by {config['loader_module']}"
        for name, config in flavors.items()
        if config.get("loader_module", flavor.__name__) != flavor.__name__
    ]
    if "pytorch" not in flavors or _NETWORK_KEY not in (described.get("metadata") or {}):
        reasons.append("it is not stored as pt2 by Kiln")
    if reasons:
        raise UserError(f"{model_uri} is refused before it is loaded: {'; '.join(reasons)}")
