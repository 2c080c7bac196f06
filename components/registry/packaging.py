"""A model as files: stored as pt2 with its network beside it, loaded without running anything that came along."""

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

SHA256 = "kiln.sha256"
_NETWORK = "kiln.network"
# What MLflow adds to a copy that it hands out.
_ADDED = "registered_model_meta"
_PARITY = 1e-4
# torch.export and MLflow's current experiment are the process's, not a thread's.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Loaded:
    """A stored model: the module (uint8 images to logits), its network, the digest of its weights (`components.models.
    weights`) and that of all its files."""

    module: nn.Module
    network: Network
    sha256: str
    files_sha256: str


def save(module: nn.Module, network: Network, sha256: str, name: str, run_id: str, experiment_id: str) -> ModelInfo:
    """Logs a model under a run and reads it back.

    Raises:
        UserError: the store could not take it, or what came back is not what went in.
    """
    try:
        with _ONE_AT_A_TIME, store.permitted("store a model", "the training identity"):
            # MLflow files the model under the experiment that is set, whatever the run's is.
            mlflow.set_experiment(experiment_id=experiment_id)
            info = _log(module, network, sha256, name, run_id)
    except (OSError, MlflowException) as error:
        raise UserError(
            f"the model could not be stored ({type(error).__name__}: {error}); no version was made. Is there room where the "
            "artifacts are kept? `dvc repro` tries again"
        ) from error
    stored = load(info.model_uri)
    images = torch.randint(0, 256, (3, *network.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = module(images), stored.module(images)
    if stored.sha256 != sha256 or not torch.allclose(expected, found, rtol=_PARITY, atol=_PARITY):
        raise UserError(
            f"{info.model_uri} does not hold what was stored there: expected sha256 {sha256}, found {stored.sha256}, "
            f"logits differ by {(expected - found).abs().max():.2g}; no version was made, run `dvc repro` again"
        )
    return info


def _log(module: nn.Module, network: Network, sha256: str, name: str, run_id: str) -> ModelInfo:
    libraries = environment()
    return flavor.log_model(
        module.eval(),
        name=name,
        run_id=run_id,
        serialization_format="pt2",
        # Two images, for a batch of one would be exported as a constant.
        input_example=np.zeros((2, *network.shape), np.uint8),
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(np.uint8), (-1, *network.shape))]),
            Schema([TensorSpec(np.dtype(np.float32), (-1, len(network.classes)))]),
        ),
        pip_requirements=[
            f"{lib}=={libraries[f'version.{lib}'].split('+')[0]}" for lib in LIBRARIES if lib in ("mlflow", "torch", "numpy")
        ],
        metadata={_NETWORK: network.model_dump_json(), SHA256: sha256},
    )


def load(model_uri: str) -> Loaded:
    """Downloads a model and loads it.

    Raises:
        UserError: it is not Kiln's, brings code along, or hides a pickle; nothing of it has run.
    """
    with tempfile.TemporaryDirectory() as folder:
        with store.permitted(f"read {model_uri}", "those who were given READ"):
            path = Path(download_artifacts(artifact_uri=model_uri, dst_path=folder))
        described = yaml.safe_load((path / "MLmodel").read_text())
        _refuse_code(model_uri, path, described)
        network = Network.model_validate_json(described["metadata"][_NETWORK])
        try:
            module = flavor.load_model(str(path))
        except MlflowException as error:
            raise UserError(f"{model_uri} is refused: {error}") from None
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != _ADDED)
        listing = "".join(f"{sha256_file(file)}  {file.relative_to(path)}\n" for file in files)
    digest = weights.sha256(network, dict(module.state_dict()))
    return Loaded(module, network, digest, hashlib.sha256(listing.encode()).hexdigest())


def _refuse_code(model_uri: str, path: Path, described: dict[str, Any]) -> None:
    """A model's `code/` would be put on the import path, and its `loader_module` imported (both before any check)."""
    flavors = described.get("flavors", {})
    reasons = [
        *(f"its flavor {name} brings code" for name, facts in flavors.items() if facts.get("code")),
        *(["it has a folder code/"] if (path / "code").exists() else []),
        *(
            f"its flavor {name} is loaded by {facts['loader_module']}"
            for name, facts in flavors.items()
            if facts.get("loader_module", flavor.__name__) != flavor.__name__
        ),
        *(
            ["it is not stored as pt2 by Kiln"]
            if "pytorch" not in flavors or _NETWORK not in (described.get("metadata") or {})
            else []
        ),
    ]
    if reasons:
        raise UserError(f"{model_uri} is refused before it is loaded: {'; '.join(reasons)}")
