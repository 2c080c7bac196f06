"""The private names of Ray that Kiln uses still exist, and still do what Kiln needs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import socket
from collections.abc import Iterator

import pytest
import ray
import requests
from ray.job_submission import JobSubmissionClient

from components.ray_session.private_api import jobs
from components.ray_session.private_api.jobs import TimeoutJobSubmissionClient

ADVICE = f"Ray {ray.__version__}: see components/ray_session/private_api/"


def test_job_client_has_the_overridden_method() -> None:
    method = getattr(JobSubmissionClient, "_do_request", None)
    assert method is not None, f"JobSubmissionClient._do_request is gone. {ADVICE}"
    parameters = inspect.signature(method).parameters
    assert list(parameters)[:3] == ["self", "method", "endpoint"], (
        f"JobSubmissionClient._do_request has other parameters: {list(parameters)}. {ADVICE}"
    )
    assert any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values()), (
        f"JobSubmissionClient._do_request passes no options to requests any more. {ADVICE}"
    )


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_requests_of_the_job_client_time_out(
    silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs, "REQUEST_TIMEOUT_S", 0.1)
    with pytest.raises(requests.Timeout):
        TimeoutJobSubmissionClient(silent_server)


def test_train_context_has_the_preemption_notice() -> None:
    context = importlib.import_module("ray.train.v2._internal.execution.context")
    assert callable(getattr(context, "get_train_context", None)), (
        f"get_train_context is gone. {ADVICE}"
    )
    fields = {field.name for field in dataclasses.fields(context.TrainContext)}
    assert "preemption_context" in fields, f"TrainContext has only {sorted(fields)}. {ADVICE}"
    notice = context.PreemptionContext()
    assert hasattr(notice, "preemption_info"), f"preemption_info is gone. {ADVICE}"
    assert notice.preemption_info is None, f"a node without a notice has one. {ADVICE}"
