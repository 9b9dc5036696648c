"""minibert against `transformers` on one machine, interleaved: `python -m benchmarks --data dev-v1.1.json`.

Reading order: `timing.py`, `peers.py` (what we compare with), `bench.py`, `reading.py`, `training.py`, `breakdown.py`
and `growth.py` (what is measured), `__main__.py` (the table). Scripts by themselves: `recipe.py`, a whole run by the
tuned peer, and `gpu.py`, for a machine with a CUDA card.
"""
