"""Additions for an MLflow server with several users: an authorization hook, and roles."""
