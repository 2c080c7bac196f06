"""List the commands."""

import ast
from pathlib import Path

from components.console import echo


def main() -> None:
    """Print the name and the summary of every command."""
    echo("python -m pipelines.<command> --help shows the options.\n")
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        # Read from the source: importing all commands would take seconds.
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        echo(f"  {path.stem:<12}{docstring.splitlines()[0]}")


if __name__ == "__main__":
    main()
