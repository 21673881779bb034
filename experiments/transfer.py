"""Attack each of several classifiers and ask all of them: `srdef transfer`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("transfer")
