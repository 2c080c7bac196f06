"""The history of a training is read back exactly as it was written."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from components.records.training import Epoch
from pipelines import register


def test_history_is_read_without_rounding_or_a_warning(tmp_path: Path) -> None:
    epochs = [
        Epoch(
            epoch=n,
            step=20 * n,
            learning_rate=0.1 / 3,
            train_loss=1e-17 / 7,
            train_top1=1.0,
            val_loss=2 / 3,
            val_top1=0.9031986531986532,
        )
        for n in (1, 2)
    ]
    path = tmp_path / "history.csv"
    pd.DataFrame([epoch.model_dump() for epoch in epochs]).to_csv(path, index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert register._read_history(path) == epochs
