"""``python -m refquant`` is the command line."""

from refquant.interrupts import install

if __name__ == "__main__":
    install()  # before the command line is imported
    from refquant.cli import console

    console()
