"""minibert against `transformers` on one machine, interleaved: `python -m benchmarks --data dev-v1.1.json`.

Reading order: `timing.py`, `peers.py` (what we compare with), `bench.py`, `reading.py`, `training.py` and `growth.py`
(what is measured), `__main__.py` (the table). `gpu.py` is a script by itself, for a machine with a CUDA card.
"""
