"""Checks that training on a GPU is right."""
