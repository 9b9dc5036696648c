"""In a clone, `python evaluate.py` is the command `minibert evaluate`: see `minibert/commands/evaluate.py`."""

from minibert.__main__ import run

if __name__ == "__main__":
    run("evaluate")
