"""The order of computations: each module is one DVC stage or one command for the user."""

import importlib.util
import sys

if importlib.util.find_spec("pydantic") is None:
    sys.exit(
        f"error: {sys.executable} has none of Kiln's packages; run `make setup` once, then "
        "`source .venv/bin/activate` in each new shell"
    )
