"""One Ray session for a stage: the cluster that `RAY_ADDRESS` names, else a local Ray."""

from __future__ import annotations

import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib

from components.errors import UserError
from components.ray_session.addresses import (
    check_ray_address,
    forwarded_addresses,
    get_ray_address,
)
from components.ray_session.code_package import pack, write_archive
from components.redaction import redact

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # No server scrapes a session that lasts for one stage, and every metric costs CPU time.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A thread that calls Ray after the session has ended must not start another session.
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
"""Environment of every driver, unless the user's own sets it. Ray reads it on import."""

_LOCAL_SETTINGS = {
    # Counting and sending metrics takes half a per cent of a core.
    "RAY_enable_metrics_collection": "0",
    # One actor fewer to start: this machine announces no preemption.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # The end of a training is noticed this many seconds late at most.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray Train trains on a thread. Freed memory stays with such a thread only where all threads
    # share one malloc arena (`components.training.process_settings`).
    "MALLOC_ARENA_MAX": "1",
}

# Ray sets this variable for the entrypoint of a job.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def is_cluster() -> bool:
    """Return whether stages run on a cluster, which `RAY_ADDRESS` names, and not on a local Ray."""
    return get_ray_address() is not None


def check_cluster() -> None:
    """Check that the cluster of `RAY_ADDRESS` answers and can be sent this repository's code.

    Nothing is checked for a local Ray.

    Raises:
        UserError: it cannot.
    """
    check_ray_address()
    if is_cluster() and _JOB_CONFIG not in os.environ:
        pack(allow_dirty=True)


@contextmanager
def session() -> Iterator[str]:
    """Connect to Ray and yield a description of it; disconnect when the block ends.

    A local Ray ends with the block. The workers of a cluster get this repository's code.

    Raises:
        UserError: the cluster does not answer, or the local Ray does not start.
    """
    with starting_session() as connect:
        yield connect()


@contextmanager
def starting_session() -> Iterator[Callable[[], str]]:
    """Start a session in the background; yield a function that waits for it.

    The function returns and raises what `session` yields and raises. Until then the block can do
    work that needs no Ray, such as imports that take seconds.
    """
    check_ray_address()
    prepare_environment()
    import ray  # reads the environment; it cannot be imported by two threads at once

    # The thread stays until the session ends: Linux kills the processes of a local Ray together
    # with the thread that started them (PR_SET_PDEATHSIG).
    with ThreadPoolExecutor(1, "ray-session") as executor:
        connection = executor.submit(_connect)
        try:
            yield connection.result
        finally:
            wait([connection])  # a Ray that is still starting cannot be shut down
            ray.shutdown()


def prepare_environment() -> None:
    """Set Ray's environment variables that the user has not set. Call it before importing Ray."""
    settings = SETTINGS if is_cluster() else SETTINGS | _LOCAL_SETTINGS
    for key, value in settings.items():
        os.environ.setdefault(key, value)
    # A local Ray requires a token by itself. Without one in the environment it would write one
    # below the home directory, readable by others.
    if not is_cluster() and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _connect() -> str:
    import ray

    address = get_ray_address()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with tempfile.TemporaryDirectory() as folder:
            if address:
                runtime_env = _runtime_env(Path(folder))
                _retry(lambda: ray.init(address=address, runtime_env=runtime_env, **options))
            else:
                cores = joblib.cpu_count()
                ray.init(address="local", num_cpus=cores, include_dashboard=False, **options)
    except UserError:
        raise
    except Exception as error:  # Ray raises a bare Exception when a busy machine delays its start
        raise UserError(_describe(error, address)) from error
    return address or f"this machine ({joblib.cpu_count()} CPU)"


def _retry(connect: Callable[[], object]) -> None:
    """Connect, up to three times where Ray Client's server on the head could not start.

    The head starts a process for each client. On a busy head it may end or be late, which says
    nothing about the next one.
    """
    for wait_s in (2, 10):
        try:
            connect()
            return
        except ConnectionAbortedError:
            print(f"Ray's head could not serve this connection; next try in {wait_s} s", flush=True)
            time.sleep(wait_s)
    connect()


def _describe(error: Exception, address: str | None) -> str:
    # Ray Client forwards the server's traceback; its last line has the reason.
    traceback = r"\s*Traceback \(most recent call last\):.*\n(?=\S)"
    reason = re.sub(traceback, " ", str(error), flags=re.DOTALL).strip()
    advice = ""
    if address and not address.startswith("ray://"):
        advice = "; from a machine that is no node of the cluster: RAY_ADDRESS=ray://HEAD:10001"
    return redact(f"Ray at RAY_ADDRESS={address or 'local'} cannot be used: {reason}{advice}")


def _runtime_env(folder: Path) -> dict[str, Any]:
    """Return the runtime environment of a cluster's workers: addresses and this repository's code.

    In a Ray job the workers have the job's code already.
    """
    env: dict[str, Any] = {"env_vars": forwarded_addresses()}
    if _JOB_CONFIG not in os.environ:
        env["working_dir"] = str(write_archive(pack(allow_dirty=True), folder))
    return env
