"""Train a super-resolution network: `srdef train-sr`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["train-sr", *sys.argv[1:]]))
