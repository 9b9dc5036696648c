"""The start of a process: `python -m benchmarks.startup torch|ours|theirs MODEL` imports, loads a model, and ends.

It imports nothing else of this package, because that would count as well.
"""

import sys

side, model = sys.argv[1:]
if side == "torch":
    import torch  # noqa: F401  # which both sides import
elif side == "ours":
    import minibert

    minibert.load_model(model), minibert.load_tokenizer(model)
else:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    AutoModelForQuestionAnswering.from_pretrained(model), AutoTokenizer.from_pretrained(model)
