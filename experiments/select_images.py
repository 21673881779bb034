"""Choose images that a classifier classifies correctly: `srdef select-images`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["select-images", *sys.argv[1:]]))
