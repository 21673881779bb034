"""Show one adversarial image through every defense: `srdef defense-gallery`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("defense-gallery")
