"""Description of the machine for a report: hardware, versions, commit."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata

import joblib
import psutil

from components import provenance

_LIBRARIES = ("torch", "torchvision", "ray", "mlflow", "dvc", "lightning", "accelerate", "numpy")


def describe_machine() -> dict[str, str]:
    """Return the facts that a reader needs to judge or repeat a measurement.

    It contains no host name and no path.
    """
    state = provenance.git_state()
    dirty = " with uncommitted changes" if state["git.dirty"] != "false" else ""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": f"{provenance.cpu_model()}, {joblib.cpu_count()} cores, {memory:.0f} GiB",
        "GPU": gpu_name() or "none",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {library_version(name)}" for name in _LIBRARIES),
        "commit": state["git.commit"] + dirty,
        "priority": f"nice {os.nice(0)}",
    }


def library_version(name: str) -> str:
    """Return the installed version, or "not installed"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def gpu_name() -> str:
    """Return the first GPU's name, or "". CUDA is not initialised in this process."""
    import pynvml

    try:
        pynvml.nvmlInit()
        name = str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return ""
    return name


def machine_slug() -> str:
    """Return a name of the machine for file names: `2x-amd-epyc`."""
    name = f"{joblib.cpu_count()}x {provenance.cpu_model()}"
    words = re.sub(r"\((r|tm)\)|processor|cpu|@.*", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")
