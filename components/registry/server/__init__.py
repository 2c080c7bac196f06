"""What a shared MLflow server needs: an authorization hook, and roles."""
