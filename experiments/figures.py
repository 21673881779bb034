"""Draw one of the paper's figures: `srdef figures`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("figures")
