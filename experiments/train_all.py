"""Train all super-resolution networks, one after the other: `srdef train-all`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["train-all", *sys.argv[1:]]))
