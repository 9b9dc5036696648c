"""`python evaluate.py` in a clone is `minibert evaluate` of an installed package: see `minibert/commands/evaluate.py`."""

from minibert.__main__ import run

if __name__ == "__main__":
    run("evaluate")
