"""Train a detector of adversarial images and ask it about defended ones: `srdef manifold`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["manifold", *sys.argv[1:]]))
