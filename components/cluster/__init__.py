"""Ray: where things run."""
