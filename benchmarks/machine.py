"""Where figures come from: hardware, versions, commit."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata

import joblib
import psutil

from components import provenance

_LIBRARIES = ("torch", "torchvision", "ray", "mlflow", "dvc", "lightning", "accelerate", "numpy")


def facts() -> dict[str, str]:
    """What a reader needs to judge or repeat a measurement. No host name, no path."""
    state = provenance.git_state()
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": f"{provenance.cpu_model()}, {joblib.cpu_count()} cores, {memory:.0f} GiB",
        "GPU": gpu() or "none",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "commit": state["git.commit"] + (" with uncommitted changes" if state["git.dirty"] != "false" else ""),
        "priority": f"nice {os.nice(0)}",
    }


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def gpu() -> str:
    """Its name, without starting CUDA in this process."""
    import pynvml

    try:
        pynvml.nvmlInit()
        name = str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return ""
    return name


def slug(of_gpu: bool = False) -> str:
    """For file names: `2x-amd-epyc`, or the GPU's."""
    name = (of_gpu and gpu()) or f"{joblib.cpu_count()}x {provenance.cpu_model()}"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|processor|cpu|@.*", " ", name.lower())).strip("-")
