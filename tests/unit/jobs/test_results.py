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


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m plain\x1b[m\x1b[0m", "\x1b[1;31mred\x1b[0m plain\x1b[m\x1b[0m"),
        ("\x1b[8mhidden", "\x1b[8mhidden\x1b[0m"),
        ("10 %\r20 %\tdone\r", "10 %\r20 %\tdone\r"),
        ("\x1b[2J\x1b[1;1Hsubmit: SUCCEEDED", r"\x1b[2J\x1b[1;1Hsubmit: SUCCEEDED"),
        (
            "\x1b]52;c;ZXZpbA==\x07\x1b[6n\x1bP1$r\x1b\\\x9b2J",
            r"\x1b]52;c;ZXZpbA==\x07\x1b[6n\x1bP1$r\x1b" + "\\" + r"\x9b2J",
        ),
        ("\u202etxt.exe\x00", r"\u202etxt.exe\x00"),
        (
            "ERROR: failed to push to https://ci:pw@host/x",
            "ERROR: failed to push to https://ci:***@host/x",
        ),
        ("ValueError: AWS says a/secret+key", "ValueError: AWS says ***"),
    ],
)
def test_line_of_a_log_keeps_colours_only(
    line: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a/secret+key")
    show = LogPrinter()
    for start in range(0, len(line) + 1, 5):
        show(f"{line}\n"[start : start + 5])
    assert capsys.readouterr().out == f"{shown}\n"


def test_printed_log_lacks_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    show = LogPrinter()
    text = "\n".join(["epoch 1", *encode_lines(JobResult("stages:\n", FILES)), "bye", ""])
    for start in range(0, len(text), 7):
        show(text[start : start + 7])
    assert capsys.readouterr().out == "epoch 1\nbye\n"
