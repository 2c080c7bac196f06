from __future__ import annotations

import pytest
import torch

from components.models.architectures import build
from components.training.validation import validate
from tests.unit.training.cases import CPU, NETWORK, VAL, make_store


def test_validation_counts_every_image_once() -> None:
    torch.manual_seed(0)
    model = build(NETWORK).eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(VAL.pixels)).double()
    labels = torch.from_numpy(VAL.labels)
    loss, top1 = validate(model, make_store(VAL), CPU)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert top1 == (logits.argmax(1) == labels).double().mean().item()
