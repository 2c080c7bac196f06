"""The stage `augment`, with and without a policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.data.format.shards import read_split, write_split
from pipelines.augment import run
from tests.conftest import make_images

PARAMS = """\
preprocess: {source: {kind: image_folder, path: data/raw}}
train: {models: {cnn: {architecture: cnn, epochs: 1, learning_rate: 0.1}}}
register: {name: test}
"""
POLICY = "augment: {copies: 2, policy: [{name: horizontal_flip, p: 1}]}\n"


@pytest.mark.parametrize(
    ("section", "copies"), [("", 0), ("augment: {copies: 0, policy: []}\n", 0), (POLICY, 2)]
)
def test_stage_writes_split_preview_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, copies: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS + section)
    originals = make_images(12)
    write_split(Path("prepared"), "train", originals, ["a", "b", "c"], shard_mb=1)
    run(Path("prepared"), Path("augmented"))
    images, manifest = read_split(Path("augmented/train"))
    assert manifest.rows == 12 * (1 + copies)
    assert np.array_equal(images.pixels[:12], originals.pixels)
    assert Path("augmented/preview.png").read_bytes().startswith(b"\x89PNG")
    counts = pd.read_csv("augmented/class_counts.csv")
    assert counts["original"].tolist() == [4, 4, 4]
    assert counts["augmented"].tolist() == [4 * (1 + copies)] * 3
