"""Private names of Ray. The only package of Kiln that uses them.

Each entry gives the reason, and the public API that is missing. A new version of Ray may drop
these names: `tests/unit/ray_session/test_private_api.py` then fails and names the entry. One module
per use, because the job client takes a third of a second to import and workers do not need it.
"""
