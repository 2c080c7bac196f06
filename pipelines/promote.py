"""Moves the champion alias to a version whose verdict passed. (for a person or CI)"""

from __future__ import annotations

import argparse

from components.console import launch, say
from components.errors import UserError
from components.params import load_params
from components.tracking import registry, store


def run(version: int, reason: str, name: str | None = None) -> None:
    """Moves the alias of params promote.alias to `version`.

    Raises:
        UserError: there is no such version, it was not evaluated, it failed, it was altered since, or no reason is given.
    """
    params = load_params()
    name, alias = name or params.register_.name, params.promote.alias
    if not reason.strip():
        raise UserError("--reason is empty; say why, it is kept with the version")
    client = store.connect()
    passed = registry.require_passed(client, name, version)
    before = registry.promote(client, passed, alias, reason)
    say(
        f"promote: {name}@{alias} is version {version}"
        + (f" (was {before})" if before and int(before) != version else "")
        + f": {reason}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", type=int, required=True, help="the version to promote")
    parser.add_argument("--reason", required=True, help="why; kept with the version")
    parser.add_argument("--name", help="registered model (default: params register.name)")
    args = parser.parse_args(argv)
    run(args.version, args.reason, args.name)


if __name__ == "__main__":
    launch(main)
