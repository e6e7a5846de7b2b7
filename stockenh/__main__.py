"""`python -m stockenh` is the console script."""

from stockenh.cli import main

if __name__ == "__main__":
    main()
