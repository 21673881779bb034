"""Write one HTML page about a finished run: `srdef report`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("report")
