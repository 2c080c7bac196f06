"""Shows how a registered version was made, and checks what of it can be made again. (for a person)"""

from __future__ import annotations

import argparse

from components.console import launch, say, table
from components.errors import UserError
from components.registry import lineage
from components.tracking import store


def run(reference: str, check: bool) -> bool:
    """Prints the lineage of `name@alias` or `name/version`; with `check`, rebuilds what can be rebuilt.

    Returns whether nothing that was checked differs.

    Raises:
        UserError: there is no such version.
    """
    made = lineage.of(store.connect(), reference)
    table(reference, ["", "how it was made"], made.rows())
    say("to make it again:")
    for command in made.commands():
        say(f"  {command}")
    if not check:
        return True
    try:
        results = lineage.check(made)
    except UserError as error:
        say(f"trace: {error}")
        return False
    table("checked against the commit", ["fact", "", "found"], results)
    return all(outcome != lineage.DIFFERS for _, outcome, _ in results)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", help="name@alias or name/version")
    parser.add_argument("--check", action="store_true", help="check out the commit and compare what can be had of it")
    args = parser.parse_args(argv)
    if not run(args.reference, args.check):
        raise SystemExit(1)


if __name__ == "__main__":
    launch(main)
