"""Convert a weights file, or put one into the cache by hand: `srdef convert-weights`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["convert-weights", *sys.argv[1:]]))
