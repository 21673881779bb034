"""Print the tables of networks and their weights: `srdef network-table`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["network-table", *sys.argv[1:]]))
