"""In a clone, `python ask.py` is the command `minibert ask`: see `minibert/commands/ask.py`."""

from minibert.__main__ import run

if __name__ == "__main__":
    run("ask")
