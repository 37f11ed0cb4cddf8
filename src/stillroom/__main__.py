"""`python -m stillroom`, and `torchrun ... -m stillroom train ...`."""

from __future__ import annotations

from stillroom.cli import main

main()
