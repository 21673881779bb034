"""Show one adversarial image through every defense: `srdef defense-gallery`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["defense-gallery", *sys.argv[1:]]))
