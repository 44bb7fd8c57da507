"""`python -m rooftrace` is the command `rooftrace`."""

from .commandline.cli import main

raise SystemExit(main())
