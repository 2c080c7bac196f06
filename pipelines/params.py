"""Check params.yaml and write it to data/params.yaml with the defaults filled in. (stage)"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from components.console import echo, launch
from components.files import write_bytes
from components.models.names import check_architecture
from components.params import Recipe, load_params
from components.params.named_recipes import RECIPES
from components.registry.starting_weights import pin_all


def run(out: Path, models: Path = Path("models")) -> None:
    """Check `params.yaml` and write all parameters to `out`, starting weights with their digests.

    DVC refuses to depend on a key that a file does not have. The other stages depend on keys of
    `out` instead, so that any key with a default may be left out of `params.yaml`.

    Args:
        out: file with all parameters.
        models: folder in which `train` puts a folder per model.

    Raises:
        UserError: the parameters are wrong, no library has an architecture that they name, or there
            are no starting weights where `init` says.
    """
    params = load_params()
    for model, recipe in params.train.models.items():
        check_architecture(recipe.architecture)
        if recipe.recipe is not None:
            echo(f"params: {model}: {recipe.recipe} is {_describe(recipe)}")
    values = params.resolved()
    for model, init in pin_all(params, models).items():
        values["train"]["models"][model]["init"] = init
    write_bytes(out, yaml.safe_dump(values, sort_keys=False).encode())


def _describe(recipe: Recipe) -> str:
    """Return the keys that a named recipe has set, in YAML's flow style."""
    values = recipe.model_dump(mode="json")
    keys = {key: values[key] for key in RECIPES[recipe.recipe]} if recipe.recipe else {}
    return yaml.safe_dump(keys, sort_keys=False, default_flow_style=True, width=2000).strip()


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file with all parameters")
    run(parser.parse_args(argv).out)


if __name__ == "__main__":
    launch(main)
