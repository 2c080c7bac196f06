from __future__ import annotations

from pathlib import Path

from components.training import precision_cache


def test_stored_precision_is_loaded_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "precision.json"
    assert precision_cache.load(path, "one") == "auto"
    precision_cache.store(path, "one", "bf16")
    precision_cache.store(path, "two", "fp32")
    assert precision_cache.load(path, "one") == "bf16"
    assert precision_cache.load(path, "two") == "fp32"
    assert precision_cache.load(path, "three") == "auto"


def test_unreadable_file_counts_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "precision.json"
    path.write_text("{broken")
    assert precision_cache.load(path, "one") == "auto"


def test_key_depends_on_every_fact() -> None:
    keys = {precision_cache.key(*facts) for facts in (("cnn", 1), ("cnn", 2), ("resnet20", 1))}
    assert len(keys) == 3
    assert precision_cache.key("cnn", 1) in keys
