"""Stored models that could run code are refused before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import UserError
from components.registry import packaging

MODEL = {
    "flavors": {
        "pytorch": {"model_data": "data"},
        "python_function": {"loader_module": "mlflow.pytorch"},
    },
    "metadata": {"kiln.network": "{}"},
}


def write_model(folder: Path, **changes: Any) -> str:
    (folder / "MLmodel").write_text(yaml.safe_dump(MODEL | changes))
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"flavors": {"pytorch": {"code": "extra"}}}, "its flavor pytorch brings code"),
        (
            {"flavors": {"pytorch": {}, "python_function": {"loader_module": "evil"}}},
            "its flavor python_function is loaded by evil",
        ),
        ({"flavors": {"sklearn": {}}}, "it is not stored as pt2 by Kiln"),
        ({"metadata": None}, "it is not stored as pt2 by Kiln"),
    ],
)
def test_description_that_names_code_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=f"is refused before it is loaded: {reason}$"):
        packaging.load(write_model(tmp_path, **changes))


def test_code_folder_is_refused_whatever_the_description_contains(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "torch.py").write_text("raise SystemExit")
    with pytest.raises(UserError, match=r"before it is loaded: it has a folder code/$"):
        packaging.load(write_model(tmp_path))
