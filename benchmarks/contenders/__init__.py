"""One process per contender: `python -m benchmarks.contenders.NAME WORK.json RESULT.json`."""
