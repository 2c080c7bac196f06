"""What a probe chose stands on its machine."""

from __future__ import annotations

from pathlib import Path

from components.training import precision_cache


def test_a_choice_is_remembered(tmp_path: Path) -> None:
    memory = tmp_path / "deep" / "precision.json"
    assert precision_cache.recall(memory, "here") == "auto"
    precision_cache.remember(memory, "here", "bf16")
    precision_cache.remember(memory, "there", "fp32")
    assert [precision_cache.recall(memory, place) for place in ("here", "there", "elsewhere")] == ["bf16", "fp32", "auto"]
    memory.write_text("{broken")
    assert precision_cache.recall(memory, "here") == "auto"
