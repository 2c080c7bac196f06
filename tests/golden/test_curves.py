from __future__ import annotations

import json

import pytest

from tests.golden.curves import ARCHITECTURES, FILE, STEPS, curve


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_curve_is_the_one_on_record(architecture: str) -> None:
    """Within one percent: other processors round differently. A changed rate, order or picture is far off."""
    recorded = json.loads(FILE.read_text())[architecture]
    assert len(recorded) == STEPS
    assert curve(architecture) == pytest.approx(recorded, rel=0.01)
