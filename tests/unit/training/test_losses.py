from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from components.params import Loss
from components.training.losses import Criterion

LOGITS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 1, 2, 2, 0])
COUNTS = torch.tensor([90, 9, 1])


def criterion(smoothing: float = 0.0, **values: object) -> Criterion:
    return Criterion(Loss.model_validate(values), smoothing, COUNTS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_focal_loss_without_focus_is_cross_entropy(smoothing: float) -> None:
    expected = F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(criterion(smoothing)(LOGITS, LABELS), expected)
    torch.testing.assert_close(criterion(smoothing, name="focal", gamma=0)(LOGITS, LABELS), expected)


def test_the_focal_loss_is_the_papers() -> None:
    p = LOGITS.softmax(1)[torch.arange(5), LABELS]
    torch.testing.assert_close(criterion(name="focal", gamma=2)(LOGITS, LABELS), -((1 - p) ** 2) * p.log())
    certain = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    criterion(name="focal", gamma=0.5)(certain, torch.tensor([0])).sum().backward()
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_labels_and_probabilities_mean_the_same() -> None:
    for values in ({}, {"name": "focal"}, {"class_weights": "balanced"}):
        both = criterion(**values)
        torch.testing.assert_close(both(LOGITS, LABELS), both(LOGITS, F.one_hot(LABELS, 3).float()))


def test_balanced_weights_give_each_class_the_same_say_and_average_one() -> None:
    weights = criterion(class_weights="balanced").weights
    assert weights is not None
    torch.testing.assert_close(weights * COUNTS, torch.full((3,), 100 / 3))
    assert (weights * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)
    lacking = Criterion(Loss(class_weights="balanced"), 0.0, torch.tensor([5, 0, 5])).weights
    assert lacking is not None
    assert lacking[[0, 2]].tolist() == [1, 1]
