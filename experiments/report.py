"""Write one HTML page about a finished run: `srdef report`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
