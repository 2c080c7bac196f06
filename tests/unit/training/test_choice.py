"""What a probe chose stands on its machine."""

from __future__ import annotations

from pathlib import Path

from components.training import choice


def test_a_choice_is_remembered(tmp_path: Path) -> None:
    memory = tmp_path / "deep" / "precision.json"
    assert choice.recall(memory, "here") == "auto"
    choice.remember(memory, "here", "bf16")
    choice.remember(memory, "there", "fp32")
    assert [choice.recall(memory, place) for place in ("here", "there", "elsewhere")] == ["bf16", "fp32", "auto"]
    memory.write_text("{broken")
    assert choice.recall(memory, "here") == "auto"
