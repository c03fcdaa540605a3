"""`python -m unetinspect`."""

import sys

from unetinspect.cli.main import main

sys.exit(main())
