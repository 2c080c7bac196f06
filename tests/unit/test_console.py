"""Output for the user, and exit codes."""

from __future__ import annotations

import pytest

from components import console
from components.console import ProgressBar, format_duration, launch, print_table
from components.errors import UserError


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (185, "3:05 min"), (7380, "2:03:00 h")],
)
def test_duration_is_formatted_by_its_length(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_user_error_is_one_message_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> None:
        raise UserError("the [cause] and what to do")

    with pytest.raises(SystemExit) as stop:
        launch(main)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "error: the [cause] and what to do\n"
    assert captured.out == ""


def test_other_exceptions_keep_their_traceback() -> None:
    def main() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        launch(main)


def test_interruption_exits_with_130() -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        launch(main)
    assert stop.value.code == 130


def test_progress_outside_a_terminal_is_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with ProgressBar("work") as progress:
        for done in range(100):
            now += 0.5
            progress.update_count(done, 100)
    assert capsys.readouterr().out.splitlines() == [
        f"work: {n}% {n}/100" for n in (19, 39, 59, 79, 99)
    ]


def test_table_prints_square_brackets_verbatim(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table("[title]", ["why"], [["see [/docs] and [urgent]"]])
    shown = capsys.readouterr().out
    assert "[title]" in shown
    assert "see [/docs] and [urgent]" in shown
