from __future__ import annotations

from typing import Any

import torch

from components.params import EarlyStopping
from components.records.training import Epoch
from components.training.epoch_history import EpochHistory


def add_epoch(history: EpochHistory, top1: float, loss: float) -> None:
    number = len(history.epochs) + 1
    epoch = Epoch(
        epoch=number,
        step=number,
        learning_rate=0.1,
        train_loss=loss,
        train_top1=top1,
        val_loss=loss,
        val_top1=top1,
    )
    history.add(epoch, lambda: {"weight": torch.tensor(float(number))})


def make_history(rows: list[tuple[float, float]], **settings: Any) -> EpochHistory:
    history = EpochHistory(EarlyStopping(**settings) if settings else None)
    for top1, loss in rows:
        add_epoch(history, top1, loss)
    return history


def best_epoch(history: EpochHistory) -> int:
    assert history.best is not None
    assert history.best_weights["weight"] == history.best.epoch
    return history.best.epoch


def test_best_epoch_has_highest_top1_then_lowest_loss_then_comes_first() -> None:
    history = make_history([(0.5, 0.1), (0.6, 0.3), (0.6, 0.2), (0.6, 0.2)])
    assert best_epoch(history) == 3
    assert not history.should_stop


def test_best_epoch_follows_the_metric_of_early_stopping() -> None:
    rows = [(0.5, 0.1), (0.6, 0.3)]
    assert best_epoch(make_history(rows, metric="val_loss", patience=5)) == 1
    assert best_epoch(make_history(rows, metric="val_top1", patience=5)) == 2


def test_early_stopping_counts_epochs_without_a_sufficient_improvement() -> None:
    history = make_history([(0.5, 1.0), (0.52, 1.0)], patience=2, min_delta=0.05)
    assert history.epochs_without_improvement == 1
    add_epoch(history, 0.56, 1.0)
    assert history.epochs_without_improvement == 0
    for _ in range(2):
        assert not history.should_stop
        add_epoch(history, 0.6, 1.0)
    assert history.should_stop


def test_loaded_history_equals_the_saved_one() -> None:
    history = make_history([(0.5, 1.0), (0.4, 1.0)], patience=2)
    loaded = EpochHistory(history.early_stopping)
    loaded.load_state_dict(history.state_dict())
    assert loaded == history
