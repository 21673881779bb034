"""`python -m srdef` is the command `srdef`."""

import sys

from srdef.command import main

sys.exit(main())
