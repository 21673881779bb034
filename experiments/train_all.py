"""Train all super-resolution networks, one after the other: `srdef train-all`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("train-all")
