"""`python -m pipelines.train` beside training: the range test and its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from components.data.format.shards import write_split
from components.errors import UserError
from components.records.splits import Channels
from pipelines import train
from tests.conftest import make_images

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
CHANNELS = Channels(mean=[80.0], std=[60.0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with parameters of two models and the splits at their usual places."""
    values: dict[str, Any] = yaml.safe_load(PARAMS.read_text())
    values["train"]["global_batch_size"] = 32
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    for path, split, rows in (
        ("data/augmented/train", "train", 120),
        ("data/prepared/val", "val", 40),
    ):
        images = make_images(rows, prefix=split)
        write_split(tmp_path / path, split, images, ["a", "b", "c"], 1, CHANNELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_find_learning_rate_prints_a_rate_and_draws_a_plot(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(["--model", "cnn", "--find-learning-rate", "--out", "rate.png"])
    assert "cnn: learning_rate: " in capsys.readouterr().out
    with Image.open(folder / "rate.png") as image:
        assert image.format == "PNG"
    assert not (folder / "models").exists(), "nothing was trained"


def test_missing_model_is_refused_with_the_names(folder: Path) -> None:
    with pytest.raises(UserError, match=r"--model is missing; train.models has cnn, resnet"):
        train.main(["--find-learning-rate"])
    with pytest.raises(UserError, match=r"--model other: not in train.models"):
        train.main(["--find-learning-rate", "--model", "other"])
