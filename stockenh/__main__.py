"""`python -m stockenh` is the console script."""

from stockenh.cli import main

main()
