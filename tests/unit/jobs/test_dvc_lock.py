"""Merging of `dvc.lock` files, and outs that DVC does not cache."""

from __future__ import annotations

from pathlib import Path

from components.jobs.dvc_lock import find_uncached_outs, merge_locks, remove_stages

LOCK = """schema: '2.0'
stages:
  preprocess:
    cmd: python -m pipelines.preprocess
    outs:
    - path: data/prepared
      md5: aa.dir
  register@cnn:
    cmd: python -m pipelines.register
    outs:
    - path: models/cnn/receipt.json
      md5: bb
"""
PIPELINE = """stages:
  preprocess:
    outs:
      - data/prepared
  register:
    outs:
      - models/${item.model}/receipt.json:
          cache: false
"""


def test_uncached_outs_match_the_templates_of_dvc_yaml(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    assert find_uncached_outs(tmp_path, LOCK) == {"register@cnn": ["models/cnn/receipt.json"]}
    assert find_uncached_outs(tmp_path, "") == {}


def test_locks_merge_stage_by_stage_with_equal_bytes() -> None:
    newer = LOCK.replace("aa.dir", "cc.dir")
    assert merge_locks("", LOCK) == LOCK
    assert merge_locks(LOCK, newer) == newer
    preprocess_only = remove_stages(newer, {"register@cnn"})
    assert "register" not in preprocess_only
    assert merge_locks(LOCK, preprocess_only) == newer


def test_lock_without_any_stage_is_empty() -> None:
    assert remove_stages(LOCK, {"preprocess", "register@cnn"}) == ""
