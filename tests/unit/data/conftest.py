"""The stage preprocess as a fixture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import preprocess
from tests.unit.data.prepared import Prepare

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Return a function that runs the stage and returns the folder that it wrote.

    Its arguments are the path of the source, the name of the output folder, the kind of the
    source, other parameters of the source, and other parameters of the section `preprocess`.
    """
    monkeypatch.chdir(tmp_path)
    # Ray's worker processes import the code from here.
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setattr(preprocess, "QUARANTINE", tmp_path / ".kiln" / "quarantine.csv")
    monkeypatch.setattr(preprocess, "SPLIT_RECORDS", tmp_path / ".kiln" / "splits")

    def run(
        path: str,
        out: str = "out",
        kind: str = "image_folder",
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Path:
        values = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
        values["preprocess"] = {
            "source": {"kind": kind, "path": path, **(options or {})},
            "val_fraction": 0.2,
            "test_fraction": 0.2,
            **settings,
        }
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        preprocess.run(tmp_path / out)
        return tmp_path / out

    return run
