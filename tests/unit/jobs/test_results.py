"""What a job brings back, as lines of its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import UserError
from components.jobs import results

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


def test_results_survive_a_log_with_other_lines_and_an_earlier_result() -> None:
    files = {"models/cnn/receipt.json": b'{"version": 1}', "big": bytes(range(256)) * 100}
    log = "\n".join(["epoch 1", *results.lines("older", {}), "epoch 2", *results.lines(LOCK, files), "bye"])
    assert results.parse(log) == (LOCK, files)
    assert all(len(line) < 5000 for line in log.splitlines())


def test_a_log_without_a_whole_result_is_refused() -> None:
    lines = list(results.lines(LOCK, {"big": bytes(range(256)) * 100 + b"x" * 5000}))
    for log in ("", "epoch 1", "\n".join(lines[:-1]) if len(lines) > 1 else lines[0][:-4]):
        with pytest.raises(UserError, match="no result in it, or not all of it"):
            results.parse(log)


def test_uncached_outs_are_found_by_the_pipelines_own_words(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    assert results.uncached(tmp_path, LOCK) == {"register@cnn": ["models/cnn/receipt.json"]}
    assert results.uncached(tmp_path, "") == {}


def test_locks_merge_stage_by_stage_to_the_byte() -> None:
    newer = LOCK.replace("aa.dir", "cc.dir")
    assert results.merged("", LOCK) == LOCK
    assert results.merged(LOCK, newer) == newer
    only = results.without(newer, {"register@cnn"})
    assert "register" not in only
    assert results.merged(LOCK, only) == newer
    assert results.without(LOCK, {"preprocess", "register@cnn"}) == ""
