from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from components.params import Loss
from components.training.losses import Criterion

LOGITS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 1, 2, 2, 0])
CLASS_COUNTS = torch.tensor([90, 9, 1])


def make_criterion(smoothing: float = 0.0, **values: object) -> Criterion:
    return Criterion(Loss.model_validate(values), smoothing, CLASS_COUNTS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_with_gamma_zero_is_cross_entropy(smoothing: float) -> None:
    expected = F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(make_criterion(smoothing)(LOGITS, LABELS), expected)
    focal = make_criterion(smoothing, name="focal", gamma=0)
    torch.testing.assert_close(focal(LOGITS, LABELS), expected)


def test_focal_loss_of_labels_is_that_of_the_paper() -> None:
    p = LOGITS.softmax(1)[torch.arange(5), LABELS]
    focal = make_criterion(name="focal", gamma=2)
    torch.testing.assert_close(focal(LOGITS, LABELS), -((1 - p) ** 2) * p.log())


def test_focal_loss_has_a_finite_gradient_at_probability_one() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    make_criterion(name="focal", gamma=0.5)(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("values", [{}, {"name": "focal"}, {"class_weights": "balanced"}])
def test_labels_and_one_hot_probabilities_have_the_same_loss(values: dict[str, str]) -> None:
    criterion = make_criterion(**values)
    probabilities = F.one_hot(LABELS, 3).float()
    torch.testing.assert_close(criterion(LOGITS, LABELS), criterion(LOGITS, probabilities))


def test_balanced_class_weights_are_inverse_to_counts_and_average_one() -> None:
    weights = make_criterion(class_weights="balanced").class_weights
    assert weights is not None
    torch.testing.assert_close(weights * CLASS_COUNTS, torch.full((3,), 100 / 3))
    assert (weights * CLASS_COUNTS).sum() / CLASS_COUNTS.sum() == pytest.approx(1)


def test_absent_class_does_not_change_the_weights_of_others() -> None:
    criterion = Criterion(Loss(class_weights="balanced"), 0.0, torch.tensor([5, 0, 5]))
    assert criterion.class_weights is not None
    assert criterion.class_weights[[0, 2]].tolist() == [1, 1]
