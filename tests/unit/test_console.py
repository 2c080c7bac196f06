from __future__ import annotations

import pytest

from components import console
from components.console import Meter, duration, launch
from components.errors import UserError


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (185, "3:05 min"), (7380, "2:03:00 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_users_mistake_is_one_message_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("the [cause] and what to do")

    with pytest.raises(SystemExit) as stop:
        launch(main)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "error: the [cause] and what to do\n"
    assert captured.out == ""


def test_our_own_defect_keeps_its_traceback() -> None:
    def main() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        launch(main)


def test_an_interruption_exits_with_130() -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        launch(main)
    assert stop.value.code == 130


def test_without_a_terminal_progress_is_sparse(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Meter("work") as meter:
        for done in range(100):
            now += 0.5
            meter.count(done, 100)
    assert capsys.readouterr().out.splitlines() == [f"work: {n}% {n}/100" for n in (19, 39, 59, 79, 99)]


def test_a_table_shows_what_people_wrote_as_they_wrote_it(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("[title]", ["why"], [["see [/docs] and [urgent]"]])
    shown = capsys.readouterr().out
    assert "[title]" in shown
    assert "see [/docs] and [urgent]" in shown
