"""Train a super-resolution network: `srdef train-sr`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("train-sr")
