"""``python -m refquant`` is the command line."""

from refquant.cli import console

if __name__ == "__main__":
    console()
