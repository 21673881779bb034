"""Attack a classifier, defend it, and print the paper's table: `srdef evaluate`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
