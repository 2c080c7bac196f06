"""Typed JSON files that stages hand to one another.

Import from the submodules: a stage depends only on the records that it reads and writes.
"""
