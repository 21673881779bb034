"""Measure PSNR and SSIM of super-resolution networks: `srdef evaluate-sr`."""

import sys

from srdef.command import main

if __name__ == "__main__":
    sys.exit(main(["evaluate-sr", *sys.argv[1:]]))
