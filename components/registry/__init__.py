"""The MLflow model registry: versions, their verdicts, the history of aliases, promotion."""

import components.tracking  # noqa: F401  (sets MLflow's environment before it is imported)

HISTORY_SUFFIX = "-history"
"""The moves of the aliases of model `<name>` are the versions of model `<name>-history`."""
