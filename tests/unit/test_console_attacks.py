"""Nothing that a command prints has a secret or a control character of others in it.

Most tests run a command in a process of its own, because the output of other libraries is caught by
hooks of the whole process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.text import Text

from components.console import ProgressBar, echo, launch, print_table
from components.errors import UserError

PASSWORD = "p@ss/w:rd%1?x"
HOSTILE = "x\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil\u2066\u2028\x00\r\x7f"
SHOWN = r"\x1b[2J\x9b31m\u202eevil\u2066\u2028\x00"


def _show_error(text: str) -> None:
    def main() -> None:
        raise UserError(text)

    with pytest.raises(SystemExit):
        launch(main)


def _show_progress(text: str) -> None:
    with ProgressBar(text) as progress:
        progress.last -= 100
        progress.update(0.5, text)


WAYS: list[Callable[[str], None]] = [
    echo,
    lambda text: print_table(text, [text], [[text]]),
    lambda text: print_table("", ["", ""], [["", Text(text, "red")]]),
    _show_progress,
    _show_error,
]


@pytest.mark.parametrize("show", WAYS)
@pytest.mark.parametrize(
    "text",
    [
        f"http://ci:{PASSWORD}@host failed",
        f"postgresql+psycopg://u:{PASSWORD}@h/db",
        f"server said {PASSWORD} is wrong",
        "GET /b/k?X-Amz-Signature=p@ss&x=1",
        "{'Authorization': 'Basic p@ssY2k6cGFzcw=='}",
    ],
)
def test_no_secret_is_printed(
    show: Callable[[str], None],
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    show(text)
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "***" in shown
    assert "p@ss" not in shown
    assert "rd%1" not in shown


@pytest.mark.parametrize("show", WAYS)
def test_no_control_character_is_printed(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show(HOSTILE)
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert SHOWN in shown
    assert [char for char in shown if not char.isprintable() and char != "\n"] == []


def test_line_end_in_a_table_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ["why"], [["fine\nerror: forged"]])
    assert r"fine\nerror: forged" in capsys.readouterr().out


def test_lines_and_emoji_codes_of_a_message_stay(capsys: pytest.CaptureFixture[str]) -> None:
    echo("2 problems\n  1. at :100:\n\t[bold]")
    assert (
        capsys.readouterr().out.expandtabs() == "2 problems\n  1. at :100:\n\t[bold]\n".expandtabs()
    )


def run(code: str, umask: int = 0o022, state: Path | None = None) -> str:
    """Return what a process prints that launches a `main` with this body."""
    body = "".join(f"    {line}\n" for line in code.splitlines())
    program = f"from components import console\ndef main():\n{body}\n"
    if state:
        program += f"from pathlib import Path\nconsole.STATE = Path({str(state)!r})\n"
    program += "console.launch(main)\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "AWS_SECRET_ACCESS_KEY": PASSWORD},
        capture_output=True,
        text=True,
        umask=umask,
    )
    return done.stdout + done.stderr


FAIL = f"raise ValueError('http://ci:{PASSWORD}@h {PASSWORD} \\x1b[2J\\u202e')"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (FAIL, "ValueError: "),
        (f"try:\n  {FAIL}\nexcept ValueError as e:\n  raise KeyError(1) from e", "direct cause"),
        (f"try:\n  {FAIL}\nexcept ValueError:\n  raise KeyError(1)", "During handling"),
        (f"e = KeyError()\ne.add_note('{PASSWORD} \\x1b')\nraise e", "KeyError"),
        (f"raise ExceptionGroup('{PASSWORD} \\x1b', [KeyError('{PASSWORD}')])", "1 sub-exc"),
        (
            f"def fail():\n  {FAIL}\nimport threading\nt = threading.Thread(target=fail)\n"
            "t.start()\nt.join()",
            "Exception in thread",
        ),
        (f"class A:\n  def __del__(self):\n    {FAIL}\nA()", "Exception ignored in"),
        (f"import warnings\nwarnings.warn('{PASSWORD} \\x1b')", "UserWarning"),
        (f"import logging\nlogging.warning('%s \\x1b', '{PASSWORD}')", "WARNING"),
        (f"import logging\nlogging.getLogger('x').error('{PASSWORD} \\x1b %s')", "***"),
        (f"import logging\nlogging.error('{PASSWORD} %d', 'x\\x1b')", "***"),
        (
            f"import logging\ntry:\n  {FAIL}\nexcept ValueError:\n  logging.exception('x')",
            "Traceback",
        ),
        (
            "import logging, urllib3\nlogging.basicConfig()\nurllib3.PoolManager().request('GET', "
            "'http://127.0.0.1:1/k?X-Amz-Signature=ss/w:rd', retries=urllib3.Retry(2))",
            "Retrying",
        ),
    ],
)
def test_other_libraries_print_no_secret_and_no_control_character(code: str, expected: str) -> None:
    shown = run(code)
    assert expected in shown
    assert "***" in shown
    assert "ss/w:rd" not in shown.replace(code.splitlines()[0], "")
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_unexpected_exception_still_exits_with_1_and_its_traceback() -> None:
    program = "from components.console import launch\ndef main(): raise KeyError('x')\nlaunch(main)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("KeyError: 'x'\n")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_state_folder_is_for_its_owner_only(umask: int, tmp_path: Path) -> None:
    run("pass", umask, tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
