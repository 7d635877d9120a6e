"""Export what was trained: `python export.py configs/digits.yaml runs/digits/last.safetensors nfnet.mindir`."""

import argparse

from src.config import Recipe
from src.training import export

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="the YAML")
    parser.add_argument("checkpoint", help="what train.py has written")
    parser.add_argument("file", help="ends in .mindir")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="what is otherwise")
    parser.add_argument("--weights", action="store_true", help="not their averages")
    given = parser.parse_args()
    export(Recipe.read(given.recipe, given.set), given.checkpoint, given.file, not given.weights)
