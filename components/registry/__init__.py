"""The MLflow model registry: versions, the history of aliases, promotion."""

import components.tracking  # noqa: F401  (sets MLflow's environment before it is imported)

HISTORY_SUFFIX = "-history"
"""The moves of a registered model's aliases are the versions of `<name>-history`."""
