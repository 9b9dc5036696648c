"""`python ask.py` in a clone is `minibert ask` of an installed package: see `minibert/commands/ask.py`."""

from minibert.__main__ import run

if __name__ == "__main__":
    run("ask")
