"""Splits in memory and on disk."""
