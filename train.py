"""`python train.py` in a clone is `minibert train` of an installed package: see `minibert/commands/train.py`."""

from minibert.__main__ import run

if __name__ == "__main__":
    run("train")
