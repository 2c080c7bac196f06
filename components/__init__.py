"""Computations. `pipelines/` puts them in order; nothing here reads `dvc.yaml`."""

import os

from components.paths import STATE

# Libraries read these variables when they are imported. The home directory may be read-only, a
# user's matplotlibrc would change the figures, and torch would leave its folder in /tmp.
os.environ.setdefault("MPLCONFIGDIR", str(STATE / "matplotlib"))
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(STATE / "torchinductor"))
