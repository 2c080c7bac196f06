"""Permissions of the roles, and stores without users."""

from __future__ import annotations

import pytest

from components.errors import UserError
from components.registry.server import roles


def test_only_promoters_may_add_to_the_history_and_only_training_writes_runs() -> None:
    permissions = roles.get_permissions("task", "7")
    assert permissions[roles.TRAINING] == {
        ("registered_model", "task"): "EDIT",
        ("registered_model", "task-history"): "READ",
        ("experiment", "7"): "EDIT",
    }
    assert permissions[roles.PROMOTERS] == {
        ("registered_model", "task"): "MANAGE",
        ("registered_model", "task-history"): "EDIT",
        ("experiment", "7"): "READ",
    }


def test_store_without_a_server_has_no_roles() -> None:
    with pytest.raises(UserError, match="is no server; rights are those of its files"):
        roles.revoke("task", "alice")
