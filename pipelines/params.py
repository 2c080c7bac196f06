"""params.yaml -> data/params.yaml: every parameter, with the defaults filled in. (stage)"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from components.console import launch
from components.files import write_bytes
from components.params import load_params


def run(out: Path) -> None:
    """Check `params.yaml` and write all parameters to `out`.

    DVC refuses to depend on a key that a file does not have. The other stages depend on keys of
    `out` instead, so that any key with a default may be left out of `params.yaml`.
    """
    values = load_params().resolved()
    write_bytes(out, yaml.safe_dump(values, sort_keys=False).encode())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the parameters with defaults")
    run(parser.parse_args(argv).out)


if __name__ == "__main__":
    launch(main)
