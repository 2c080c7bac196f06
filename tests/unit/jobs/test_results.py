"""Results as lines of a job's log."""

from __future__ import annotations

import pytest

from components.errors import UserError
from components.jobs.results import JobResult, LogPrinter, encode_lines, parse_log

FILES = {"models/cnn/receipt.json": b'{"version": 1}', "big": bytes(range(256)) * 100}


def test_last_result_is_parsed_among_other_lines() -> None:
    result = JobResult("stages:\n", FILES)
    earlier = JobResult("older")
    log = "\n".join(["epoch 1", *encode_lines(earlier), "epoch 2", *encode_lines(result), "bye"])
    assert parse_log(log) == result
    assert all(len(line) < 5000 for line in log.splitlines())


def test_incomplete_results_are_refused() -> None:
    lines = list(encode_lines(JobResult("stages:\n", {"big": bytes(range(256)) * 100})))
    incomplete = "\n".join(lines[:-1]) if len(lines) > 1 else lines[0][:-4]
    for log in ("", "epoch 1", incomplete):
        with pytest.raises(UserError, match="no result in it, or not all of it"):
            parse_log(log)


def test_printed_log_lacks_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    show = LogPrinter()
    text = "\n".join(["epoch 1", *encode_lines(JobResult("stages:\n", FILES)), "bye", ""])
    for start in range(0, len(text), 7):
        show(text[start : start + 7])
    assert capsys.readouterr().out == "epoch 1\nbye\n"
