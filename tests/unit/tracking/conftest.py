"""An MLflow store in a temporary folder, shared by the tests because its creation takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.tracking import spool, store


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def client(store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setattr(spool, "FOLDER", tmp_path / "spool")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store_folder / 'mlflow.db'}")
    monkeypatch.chdir(store_folder)
    return store.connect()
