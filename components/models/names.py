"""Names of architectures: whether Kiln, torchvision, timm or the user's repository has one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.params.base import OWN_ARCHITECTURES
from components.paths import ROOT

TIMM = "timm/"


def check_architecture(architecture: str) -> None:
    """Check that Kiln or a library has an architecture, without building it.

    Imports only the library that would have it: torchvision and timm take seconds to import.

    Raises:
        UserError: There is none. The message has the nearest names.
    """
    if architecture in OWN_ARCHITECTURES:
        return
    if ":" in architecture:
        import_builder(architecture)
    elif architecture.startswith(TIMM):
        import timm

        if not timm.is_model(architecture.removeprefix(TIMM)):
            raise UserError(
                _describe_unknown(architecture, [TIMM + name for name in timm.list_models()])
            )
    else:
        from torchvision import models

        known = models.list_models(module=models)
        if architecture not in known:
            raise UserError(_describe_unknown(architecture, sorted({*OWN_ARCHITECTURES, *known})))


def import_builder(name: str) -> Callable[..., Any]:
    """Import the function of the user's that `MODULE:FUNCTION` names.

    Raises:
        UserError: There is none, its name does not begin with `build`, or it is defined outside
            this repository.
    """
    module_name, _, function_name = name.partition(":")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"architecture {name}: the module {module_name} cannot be imported ({error}); put it "
            "into the repository, or install its package"
        ) from error
    builders = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module_name and key.startswith("build")
    }
    if function_name not in builders:
        raise UserError(
            f"architecture {name}: {module_name} defines no function {function_name} whose name "
            f"begins with build; it has {', '.join(builders) or 'none'}"
        )
    path = inspect.getsourcefile(builders[function_name])
    if path is None or not Path(path).resolve().is_relative_to(ROOT.resolve()):
        raise UserError(f"architecture {name}: {path} is not in this repository; put it there")
    return builders[function_name]


def _describe_unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=5)
    hint = f"; did you mean {', '.join(near)}?" if near else "."
    return (
        f"there is no architecture {name}{hint} Known are {', '.join(OWN_ARCHITECTURES)}, the "
        "classification networks of torchvision by name, those of timm as timm/NAME, and your own "
        "as MODULE:FUNCTION (docs/how-to/add-a-model.md)"
    )
