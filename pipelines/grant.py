"""Let users of a tracking server register (training) or promote. (for its administrator)"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys

from components.console import echo, launch
from components.errors import UserError
from components.params import load_params
from components.params.names import require_model_name
from components.redaction import remember_secret
from components.registry.server import roles
from components.tracking import store


def run(
    training: list[str], promoters: list[str], removed: list[str], name: str | None = None
) -> None:
    """Give users the roles of a registered model, and take them from others.

    Missing users, roles and registered models are created.

    Args:
        training: Users that may register and evaluate.
        promoters: Users that may move aliases.
        removed: Users that lose both roles.
        name: The registered model, by default params register.name.

    Raises:
        UserError: The name cannot be that of a registered model, the server has no basic auth, or
            the caller is not its administrator.
    """
    name = load_params().register_.name if name is None else require_model_name(name)
    client = store.connect()
    members = {roles.TRAINING: training, roles.PROMOTERS: promoters}
    roles.grant(client, name, members, ask_password)
    for user in removed:
        roles.revoke(name, user)
    for action, users in (
        ("register", training),
        ("promote", promoters),
        ("do neither any more", removed),
    ):
        if users:
            echo(f"grant: {', '.join(users)} may {action}: {name} in {store.get_redacted_uri()}")


def ask_password(user: str) -> str:
    """Return the password for a new user from the environment, or ask for it at the terminal.

    It is never an argument of the command, because `ps` shows arguments to all users.

    Raises:
        UserError: There is neither, or the two inputs differ.
    """
    variable = "KILN_PASSWORD_" + re.sub(r"\W", "_", user).upper()
    if value := os.environ.get(variable):
        return value
    if not sys.stdin.isatty():
        raise UserError(
            f"user {user!r} is new and needs a password: set {variable}, or call this at a terminal"
        )
    first = getpass.getpass(f"password of the new user {user}: ")
    if getpass.getpass("once more: ") != first:
        raise UserError("the two passwords differ; nothing was changed for this user")
    remember_secret(first)  # so that no later message can contain it
    return first


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--training", nargs="+", default=[], metavar="USER", help="may register and evaluate"
    )
    parser.add_argument(
        "--promoters", nargs="+", default=[], metavar="USER", help="may move aliases"
    )
    parser.add_argument(
        "--remove", nargs="+", default=[], metavar="USER", help="take both roles away"
    )
    parser.add_argument("--name", help="registered model (default: params register.name)")
    args = parser.parse_args(argv)
    run(args.training, args.promoters, args.remove, args.name)


if __name__ == "__main__":
    launch(main)
