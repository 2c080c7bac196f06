"""The environment of a session, and errors of the connection to a cluster."""

from __future__ import annotations

import os

import pytest
import ray

from components.errors import UserError
from components.ray_session.session import check_cluster, prepare_environment, session


def test_server_traceback_is_cut_to_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError(
            "Initialization failure from server:\nTraceback (most recent call last):\n"
            '  File "proxier.py", line 772, in Datapath\n    raise Error(\n'
            "RuntimeError: Starting failed. See head.err.\n\n"
        )

    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("components.ray_session.session.check_ray_address", lambda: None)
    with pytest.raises(UserError) as caught, session():
        pass
    reason = "Initialization failure from server: RuntimeError: Starting failed. See head.err."
    assert str(caught.value) == f"Ray at RAY_ADDRESS=ray://head:10001 cannot be used: {reason}"


def test_error_of_ray_is_shown_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError(
            "cannot fetch https://ci:pw1/pw2@host/x?X-Amz-Signature=pw3 with 'pw4word'"
        )

    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "pw4word")
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("components.ray_session.session.check_ray_address", lambda: None)
    with pytest.raises(UserError, match="cannot fetch") as caught, session():
        pass
    assert "pw" not in str(caught.value)


def test_start_that_a_busy_machine_delays_too_long_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray waits 30 s for its raylet and then raises a bare Exception."""

    def refuse(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match="local cannot be used: The current node"), session():
        pass


def test_local_session_gets_a_token_of_its_own_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {})
    prepare_environment()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize(
    "environment",
    [
        {"RAY_ADDRESS": "head:6379"},
        {"RAY_AUTH_TOKEN_PATH": "/secrets/token"},
        {"RAY_AUTH_TOKEN": "chosen"},
    ],
)
def test_token_of_the_cluster_or_of_the_user_is_kept(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", dict(environment))
    prepare_environment()
    assert os.environ.get("RAY_AUTH_TOKEN") == environment.get("RAY_AUTH_TOKEN")


def test_cluster_that_does_not_answer_is_refused_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1 does not answer"), session():
        pass
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1 does not answer"):
        check_cluster()
