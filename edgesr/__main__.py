"""`python -m edgesr` is `edgesr`."""

from edgesr.cli import main

main()
