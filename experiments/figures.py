"""Draw one of the paper's figures: `srdef figures`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["figures", *sys.argv[1:]]))
