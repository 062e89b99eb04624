"""`python -m fastfc` is the command `fastfc`."""

import sys

from fastfc.cli.main import main

sys.exit(main())
