"""Attack defenses with attackers who know more and more of them: `srdef adaptive`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["adaptive", *sys.argv[1:]]))
