"""Lets users of a tracking server register (training) or promote (promoters). (for its administrator)"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys

from components.console import launch, say
from components.errors import UserError
from components.params import load_params
from components.registry.server import roles
from components.tracking import store


def run(training: list[str], promoters: list[str], removed: list[str], name: str | None = None) -> None:
    """Gives each user the role, making what is not there yet; takes both from those in `removed`."""
    name = name or load_params().register_.name
    client = store.connect()
    roles.grant(client, name, {roles.TRAINING: training, roles.PROMOTERS: promoters}, password)
    for user in removed:
        roles.withdraw(name, user)
    for doing, users in (("register", training), ("promote", promoters), ("do neither any more", removed)):
        if users:
            say(f"grant: {', '.join(users)} may {doing}: {name} in {store.shown()}")


def password(user: str) -> str:
    """A new user's: from the environment, else asked for; never an argument, which `ps` shows to everybody."""
    variable = "KILN_PASSWORD_" + re.sub(r"\W", "_", user).upper()
    if value := os.environ.get(variable):
        return value
    if not sys.stdin.isatty():
        raise UserError(f"user {user!r} is new and needs a password: set {variable}, or call this at a terminal")
    first = getpass.getpass(f"password of the new user {user}: ")
    if getpass.getpass("once more: ") != first:
        raise UserError("the two passwords differ; nothing was changed for this user")
    return first


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", nargs="+", default=[], metavar="USER", help="may register and evaluate")
    parser.add_argument("--promoters", nargs="+", default=[], metavar="USER", help="may move aliases")
    parser.add_argument("--remove", nargs="+", default=[], metavar="USER", help="take both roles away")
    parser.add_argument("--name", help="registered model (default: params register.name)")
    args = parser.parse_args(argv)
    run(args.training, args.promoters, args.remove, args.name)


if __name__ == "__main__":
    launch(main)
