"""``python -m tests.benchmarks [pytest options, such as -k main]``: run the cases and save the table."""

import sys
from pathlib import Path

import pytest

here = Path(__file__).parent
sys.exit(pytest.main(["-c", str(here / "pytest.ini"), "--rootdir", str(here), str(here), *sys.argv[1:]]))
