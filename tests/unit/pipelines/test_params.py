"""The stage `params` refuses what no library can build, before any other stage starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import UserError
from pipelines import params as stage

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "there is no architecture resnet19; did you mean resnet18, "),
        ("timm/resnet19", "there is no architecture timm/resnet19; did you mean timm/"),
        ("nowhere:build", "the module nowhere cannot be imported"),
    ],
)
def test_architecture_that_nobody_has_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = yaml.safe_load(PARAMS.read_text())
    values["train"]["models"]["cnn"]["architecture"] = name
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=message):
        stage.run(Path("out.yaml"))
    assert not Path("out.yaml").exists()
