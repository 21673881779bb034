"""Measure how robust a model is, under attacks at several radii: `srdef attack`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["attack", *sys.argv[1:]]))
