"""Attack each of several classifiers and ask all of them: `srdef transfer`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["transfer", *sys.argv[1:]]))
