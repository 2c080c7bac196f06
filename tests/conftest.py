"""A scrubbed environment for every test, and small data."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from components.data.format.images import Images

# No test sees the caller's servers, clusters or settings. Gone before components.tracking sets its own defaults.
for _key in [key for key in os.environ if key.startswith(("MLFLOW_", "RAY_", "DVC_", "OMP_NUM_THREADS", "PYTHONDONTWRITE"))]:
    del os.environ[_key]
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # as in a session of ours; Ray reads it when it is imported
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # its first import would leave a file in the home directory
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background (`make test &`) deaf to Ctrl-C, which some tests send to what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's use of MLflow or Ray leaves in the environment does not reach the next."""
    for key in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "RAY_ADDRESS"):
        monkeypatch.delenv(key, raising=False)


def make_images(rows: int, classes: int = 3, size: int = 12, channels: int = 1, seed: int = 0, prefix: str = "train") -> Images:
    """Noise around a bright band whose place tells the class: a small network learns it in a few steps."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    pixels = random.integers(0, 80, (rows, size, size, channels), dtype=np.uint8)
    band = size // classes
    for row, label in enumerate(labels):
        pixels[row, label * band : (label + 1) * band] += 120
    return Images(pixels, labels.astype(np.int64), [f"{prefix}/{n}" for n in range(rows)])


def write_idx(folder: Path, train: Images, test: Images) -> None:
    """The four plain IDX files of a single-channel set."""
    folder.mkdir(parents=True, exist_ok=True)
    for images, prefix in ((train, "train"), (test, "t10k")):
        pixels = images.pixels.squeeze(3)
        header = bytes([0, 0, 8, 3]) + b"".join(int(n).to_bytes(4, "big") for n in pixels.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = bytes([0, 0, 8, 1]) + len(images).to_bytes(4, "big")
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + images.labels.astype(np.uint8).tobytes())


def make_certificate(certificate: Path, key: Path) -> None:
    """A certificate of its own authority for `localhost`."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate),
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True,
    )  # fmt: skip
