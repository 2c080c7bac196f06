"""The margin of a promotion, on a test split that is too small for it."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from components.errors import UserError
from pipelines import promote as command
from tests.integration.versions import evaluate_version, register_version

pytestmark = pytest.mark.slow


def test_refusal_says_what_the_split_resolves_and_how_many_images_are_needed(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    champion, candidate = (register_version(client, seed) for seed in range(2))
    evaluate_version(client, champion, 1800)
    evaluate_version(client, candidate, 1790)
    command.promote(champion.version, "first")
    with pytest.raises(
        UserError,
        match=r"may be worse .* allows 0\.50; this split of 2,000 images can resolve 0\.55 points; "
        r"2,292 images are needed for promote\.max_regression 0\.005",
    ):
        command.promote(candidate.version, "refused")
    shown = capsys.readouterr().out
    assert "margin that 2,000 images resolve (power 80 %)" in shown
    assert "0.55 points (max_regression 0.0055)" in shown
    assert "2,292" in shown
