"""MLflow: runs and the registry. The only home of `mlflow`."""

import os

# MLflow reads these when it is imported, so they stand where no module of this package can import it before them.
for _key, _value in {
    # With MLflow's own defaults a dead server holds up a call for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",
}.items():
    os.environ.setdefault(_key, _value)
# Not a default: nobody's environment may open this door for a model that Kiln loads.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
