"""Measure PSNR and SSIM of super-resolution networks: `srdef evaluate-sr`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("evaluate-sr")
