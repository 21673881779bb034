"""Choose images that a classifier classifies correctly: `srdef select-images`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("select-images")
