"""Train by a recipe: `python train.py configs/digits.yaml --out runs/digits`; --resume goes on from what is there."""

import argparse

from src.config import Recipe
from src.training import train

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="the YAML")
    parser.add_argument("--out", required=True, help="the folder of the log and the checkpoint")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="what is otherwise")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    given = parser.parse_args()
    train(Recipe.read(given.recipe, given.set), given.out, given.resume)
