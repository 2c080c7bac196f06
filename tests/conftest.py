"""A clean environment for every test, and small data."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from components.data.format.images import Images

# Tests must not use the caller's servers, clusters or settings. This happens before the import of
# components.tracking, which sets defaults of its own.
_FOREIGN = ("MLFLOW_", "RAY_", "DVC_", "OMP_NUM_THREADS", "PYTHONDONTWRITE")
for _key in [key for key in os.environ if key.startswith(_FOREIGN)]:
    del os.environ[_key]
# As in a session of Kiln. Ray reads it when it is imported.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
# Otherwise the first import of MLflow leaves a file in the home directory.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell makes background processes (`make test &`) ignore SIGINT. Some tests send it to their
    # own child processes, which would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests with the marker `root` for other users."""
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that did not run because they need root."""
    reports = terminalreporter.stats.get("skipped", [])
    skipped = [report.nodeid for report in reports if "root" in report.keywords]
    if skipped:
        terminalreporter.section(f"{len(skipped)} tests need root and did not run")
        for name in skipped:
            terminalreporter.line(name)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables that MLflow and Ray leave in the environment during a test."""
    for key in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "RAY_ADDRESS"):
        monkeypatch.delenv(key, raising=False)


def make_images(
    rows: int,
    classes: int = 3,
    size: int = 12,
    channels: int = 1,
    seed: int = 0,
    prefix: str = "train",
) -> Images:
    """Return images of noise with a bright band whose position depends on the class.

    A small network learns to classify them in a few steps.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    pixels = random.integers(0, 80, (rows, size, size, channels), dtype=np.uint8)
    band = size // classes
    for row, label in enumerate(labels):
        pixels[row, label * band : (label + 1) * band] += 120
    return Images(pixels, labels.astype(np.int64), [f"{prefix}/{n}" for n in range(rows)])


def write_idx(folder: Path, train: Images, test: Images) -> None:
    """Write the four plain IDX files of a single-channel data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for images, prefix in ((train, "train"), (test, "t10k")):
        pixels = images.pixels.squeeze(3)
        header = bytes([0, 0, 8, 3]) + b"".join(int(n).to_bytes(4, "big") for n in pixels.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = bytes([0, 0, 8, 1]) + len(images).to_bytes(4, "big")
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
            header + images.labels.astype(np.uint8).tobytes()
        )


def make_certificate(certificate: Path, key: Path) -> None:
    """Write a self-signed certificate for `localhost`, and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
