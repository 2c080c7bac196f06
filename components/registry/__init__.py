"""The MLflow model registry: versions, their verdicts, the history of aliases, promotion."""

import components.tracking  # noqa: F401  (sets MLflow's environment before it is imported)
from components.params.names import HISTORY_SUFFIX as HISTORY_SUFFIX
