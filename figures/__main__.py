"""``python -m figures [NAME ...]``: draw every figure, or those named."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import make_figures

make_figures.main(sys.argv[1:])
