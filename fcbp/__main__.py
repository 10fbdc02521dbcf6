"""``python -m fcbp`` is the ``fcbp`` command."""

import sys

from fcbp.cli import main

sys.exit(main())
