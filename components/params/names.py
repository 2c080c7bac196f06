"""Names of registered models and of aliases: one rule for `params.yaml` and for the command line.

MLflow checks a name when it is written, and that is after Kiln has appended a move to the history.
It has no public function for the check. The rules here are stricter than those of MLflow 3.17 in
`mlflow/utils/validation.py`: names of models have no `/` and no `:`; aliases consist of letters,
digits, `_` and `-`, and are neither `latest` nor `v1`, in any case. Beyond that, MLflow's filters
cannot hold a quotation mark, and `@` separates name and alias in a reference.
"""

from __future__ import annotations

import re

from components.errors import UserError

HISTORY_SUFFIX = "-history"
"""The moves of the aliases of model `<name>` are the versions of model `<name>-history`."""
MAX_NAME_LENGTH = 245
"""The longest name that is derived from it is that of the role `<name>-promoters`, and MLflow
stores names of roles and of the models that they permit in 255 characters
(`mlflow/server/auth/db/models.py`)."""
MAX_ALIAS_LENGTH = 63
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]*")
_RESERVED_ALIAS = re.compile(r"latest|v[0-9]+")
_SHOWN = 40


def require_model_name(name: str) -> str:
    """Return the name of a registered model after checking it.

    Raises:
        UserError: MLflow or Kiln cannot use the name. The message states the rule.
    """
    if name.endswith(HISTORY_SUFFIX):
        raise UserError(
            f"{_quote(name)} cannot be the name of a registered model: names that end with "
            f"{HISTORY_SUFFIX} belong to histories of aliases; choose another"
        )
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise UserError(
            f"{_quote(name)} cannot be the name of a registered model: it has 1 to "
            f"{MAX_NAME_LENGTH} of the characters A-Z a-z 0-9 _ . - and begins with a letter or a "
            "digit"
        )
    return name


def require_alias(alias: str) -> str:
    """Return an alias after checking that it can be moved.

    Aliases are lower case, so that none differs from `champion` by case alone: some databases
    take such aliases for the same one.

    Raises:
        UserError: MLflow or Kiln cannot use the alias. The message states the rule.
    """
    if _RESERVED_ALIAS.fullmatch(alias):
        raise UserError(
            f"{_quote(alias)} cannot be an alias: MLflow reserves latest and v1, v2, ...; choose "
            "another, such as champion"
        )
    if len(alias) > MAX_ALIAS_LENGTH or not _ALIAS.fullmatch(alias):
        raise UserError(
            f"{_quote(alias)} cannot be an alias: it has 1 to {MAX_ALIAS_LENGTH} of the characters "
            "a-z 0-9 _ - and begins with a letter (lower case only, as in champion)"
        )
    return alias


def _quote(text: str) -> str:
    """Return a text for a message: in quotes, on one line, and cut if it is long."""
    if len(text) <= _SHOWN:
        return repr(text)
    return f"{text[:_SHOWN]!r}... ({len(text):,} characters)"
