"""Rules of style that a machine can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.architecture.private_names import parse, source_files

QUESTION = re.compile(r"(What|Where|Which|Whether|Who|Whoever|Whose|How|When)\b", re.IGNORECASE)


def find_docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring, those of variables and fields included."""
    for node in ast.walk(tree):
        statements = getattr(node, "body", None)
        if not isinstance(statements, list):
            continue
        for statement in statements:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text.strip()


def test_docstrings_begin_with_a_command_or_a_noun_phrase() -> None:
    questions = [
        f"{path}:{line}: {text.splitlines()[0]}"
        for path in source_files()
        for line, text in find_docstrings(parse(path))
        if QUESTION.match(text)
    ]
    assert not questions, "state it as a command or as a noun phrase:\n" + "\n".join(questions)
