"""Names of registered models and aliases. `tests/unit/registry/test_names.py` asks MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from components.errors import UserError
from components.params import load_params
from components.params.names import (
    MAX_ALIAS_LENGTH,
    MAX_NAME_LENGTH,
    require_alias,
    require_model_name,
)

ROOT = Path(__file__).resolve().parents[3]
ALIASES = ("champion", "a", "x_1-b", "version1", "vv1", "latest-one", "a" * MAX_ALIAS_LENGTH)
RESERVED_BY_MLFLOW = ("latest", "v1", "v007")
BAD_ALIASES = (
    *RESERVED_BY_MLFLOW,
    "",
    "a b",
    "Champion",
    "LATEST",
    "V1",
    "1a",
    "-a",
    "it's",
    '"x"',
    "a/b",
    "a@b",
    "a:b",
    "a.b",
    "champion\n",
    "a\x1b[31m",
    "a\x00",
    "a\udcff",
    "chämpion",
    "а",  # noqa: RUF001  (Cyrillic)
    "a" * (MAX_ALIAS_LENGTH + 1),
)
NAMES = ("task", "7", "Fashion_MNIST-2.1", "history", "x" * MAX_NAME_LENGTH)
BAD_NAMES = (
    "",
    " ",
    "a b",
    "it's",
    'say "x"',
    "a/b",
    "a:b",
    "a@b",
    "a\\b",
    ".",
    "-a",
    "task\n",
    "a\x1b[2J",
    "a\x00",
    "a\udcff",
    "tâche",
    "task-history",
    "x" * (MAX_NAME_LENGTH + 1),
)


def test_names_that_kiln_takes_are_returned() -> None:
    assert [require_alias(alias) for alias in ALIASES] == list(ALIASES)
    assert [require_model_name(name) for name in NAMES] == list(NAMES)


@pytest.mark.parametrize("alias", BAD_ALIASES, ids=ascii)
def test_alias_is_refused_in_one_printable_line(alias: str) -> None:
    with pytest.raises(UserError, match="cannot be an alias: ") as caught:
        require_alias(alias)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_model_name_is_refused_in_one_printable_line(name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a registered model: ") as caught:
        require_model_name(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_long_texts_are_cut_in_the_message() -> None:
    with pytest.raises(UserError, match=r"'a{40}'\.\.\. \(200,000 characters\)"):
        require_alias("a" * 200_000)


def test_params_refuse_such_names_with_their_keys(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    values["register"]["name"] = "fashion-history"
    values["promote"] = {"alias": "latest"}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert "register.name: 'fashion-history' cannot be the name of a r" in str(caught.value)
    assert "promote.alias: 'latest' cannot be an alias: MLflow reserves" in str(caught.value)
