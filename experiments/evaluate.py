"""Attack a classifier, defend it, and print the paper's table: `srdef evaluate`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("evaluate")
