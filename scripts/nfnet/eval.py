"""Evaluate what was trained: `python eval.py configs/digits.yaml runs/digits/last.safetensors`."""

import argparse

from src.config import Recipe
from src.training import evaluate

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="the YAML")
    parser.add_argument("checkpoint", help="what train.py has written")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="what is otherwise")
    given = parser.parse_args()
    weights, averages = evaluate(Recipe.read(given.recipe, given.set), given.checkpoint)
    print(f"accuracy {weights:.4f} average {averages:.4f}")
