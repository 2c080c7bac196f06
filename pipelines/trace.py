"""Show how a registered version was made, and check what can be rebuilt of it. (for users)"""

from __future__ import annotations

import argparse

from components.console import echo, launch, print_table
from components.errors import UserError
from components.registry import lineage
from components.tracking import store
from components.tracking.outages import explain_outage


@explain_outage("repeat the command when it answers")
def run(reference: str, check: bool) -> bool:
    """Print the lineage of a version.

    Args:
        reference: `name@alias` or `name/version`.
        check: Also compare the lineage with the commit and with the data that DVC has for it.

    Returns:
        False if something that was checked differs or the check could not be made.

    Raises:
        UserError: The store does not answer, the version does not exist, or Kiln did not register
            it.
    """
    version_lineage = lineage.get_lineage(store.connect(), reference)
    print_table(reference, ["", "how it was made"], version_lineage.table_rows())
    if obstacle := version_lineage.find_obstacle():
        echo(f"trace: it cannot be made again or checked here: {obstacle}")
        return not check
    if version_lineage.dirty:
        echo(
            "trace: it was trained with uncommitted changes, or may have been; the commit alone "
            "can make other weights"
        )
    echo("to make it again:")
    for command in version_lineage.rebuild_commands():
        echo(f"  {command}")
    if not check:
        return True
    try:
        results = lineage.check(version_lineage)
    except UserError as error:
        echo(f"trace: {error}")
        return False
    rows = [[result.fact, result.outcome, result.found] for result in results]
    print_table("checked against the commit", ["fact", "", "found"], rows)
    return all(result.outcome != lineage.DIFFERS for result in results)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", help="name@alias or name/version")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check out the commit and compare what can be had of it",
    )
    args = parser.parse_args(argv)
    if not run(args.reference, args.check):
        raise SystemExit(1)


if __name__ == "__main__":
    launch(main)
