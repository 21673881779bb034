"""Time srdef beside other libraries: `srdef benchmark`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("benchmark")
