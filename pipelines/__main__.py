"""Lists the commands."""

import ast
from pathlib import Path

from components.console import say


def main() -> None:
    say("python -m pipelines.<command> --help says more.\n")
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        say(f"  {path.stem:<12}{summary}")


if __name__ == "__main__":
    main()
