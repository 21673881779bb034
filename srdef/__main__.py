"""`python -m srdef` is the command `srdef`."""

from srdef.command import entry

entry()
