"""`python -m histo` is `histo`."""

from histo.cli import main

main()
