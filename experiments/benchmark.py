"""Time srdef beside other libraries: `srdef benchmark`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
