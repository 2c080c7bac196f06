"""Errors of the connection to a cluster."""

from __future__ import annotations

import pytest
import ray

from components.errors import UserError
from components.ray_session.session import session


def test_server_traceback_is_cut_to_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError(
            "Initialization failure from server:\nTraceback (most recent call last):\n"
            '  File "proxier.py", line 772, in Datapath\n    raise Error(\n'
            "RuntimeError: Starting failed. See head.err.\n\n"
        )

    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError) as caught, session():
        pass
    reason = "Initialization failure from server: RuntimeError: Starting failed. See head.err."
    assert str(caught.value) == f"Ray at RAY_ADDRESS=ray://head:10001 cannot be used: {reason}"
