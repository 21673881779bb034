"""Convert a weights file, or put one into the cache by hand: `srdef convert-weights`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("convert-weights")
