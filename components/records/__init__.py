"""Typed JSON files that stages hand to one another.

Import from the submodules: a stage depends on the records that it reads and writes alone.
"""
