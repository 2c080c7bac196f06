"""Only the public API of ray, torch and mlflow is used, with few exceptions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.private_names import (
    find_private_names,
    names_defined_in,
    parse,
    source_files,
)

EXCEPTIONS = {
    "components/ray_session/private_api/jobs.py": "Ray has no time limit for requests to jobs",
    "components/ray_session/private_api/train.py": "Ray's public preemption notice is a barrier",
    "components/registry/server/authorization.py": "MLflow has no public API for the hook",
    "components/training/process_settings.py": "assigns a documented setting of torch",
}


@pytest.fixture(scope="module")
def first_party_names() -> set[str]:
    return {name for path in source_files() for name in names_defined_in(parse(path))}


def test_private_names_of_libraries_are_used_in_the_exceptions_only(
    first_party_names: set[str],
) -> None:
    uses = [
        f"{path}:{use}"
        for path in source_files()
        if str(path) not in EXCEPTIONS
        for use in find_private_names(parse(path), first_party_names)
    ]
    assert not uses, "use a public API, or move it into one of the exceptions:\n" + "\n".join(uses)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_every_exception_is_needed(name: str, first_party_names: set[str]) -> None:
    assert any(find_private_names(parse(Path(name)), first_party_names))


@pytest.mark.parametrize(
    "code",
    [
        "import ray._private.state",
        "from ray import _raylet",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "import torch\ntorch._C._set_deterministic(True)",
        "import torch.nn as nn\nisinstance(x, nn.modules.batchnorm._BatchNorm)",
        "import torch\ntorch.backends.cudnn.benchmark = True",
        "import mlflow\nsetattr(mlflow, 'log_metric', print)",
        "module._buffers['mean'] = mean",
        "class Client(JobClient):\n    def get(self): return super()._request()",
    ],
)
def test_private_name_is_found(code: str) -> None:
    assert len(list(find_private_names(ast.parse(code), set()))) >= 1


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.__version__",
        "import os\nos._exit(1)",
        "row._replace(a=1)",
        "self._state = 1\nother._state",
        "setattr(module, 'weight', weight)",
    ],
)
def test_other_names_are_not_found(code: str) -> None:
    assert list(find_private_names(ast.parse(code), {"_state"})) == []
