"""Stages as a Ray job: submit it, follow it, collect its results."""
