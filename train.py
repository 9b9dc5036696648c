"""In a clone, `python train.py` is the command `minibert train`: see `minibert/commands/train.py`."""

from minibert.__main__ import run

if __name__ == "__main__":
    run("train")
