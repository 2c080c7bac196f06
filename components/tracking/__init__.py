"""MLflow runs, and the connection to the tracking store."""

import os

# MLflow reads these variables when it is imported. They are set here because no module of this
# package can import MLflow before this file has run.
_DEFAULTS = {
    # With MLflow's own defaults a call to a dead server blocks for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow prints the address of a run that ends, with the password in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",  # seconds
}
for _key, _value in _DEFAULTS.items():
    os.environ.setdefault(_key, _value)
# Not a default: the user's environment must not allow pickle in a model that Kiln loads.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
