"""Measure how robust a model is, under attacks at several radii: `srdef attack`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("attack")
