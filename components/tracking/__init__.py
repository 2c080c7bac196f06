"""MLflow: runs and the registry. The only home of `mlflow`."""
