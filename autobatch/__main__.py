"""``python -m autobatch`` is the same as ``autobatch``."""

import sys

from autobatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
