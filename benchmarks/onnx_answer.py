"""The first answer with ONNX Runtime and `tokenizers` alone: neither torch nor minibert is imported.

    python -m benchmarks.onnx_answer MODEL.onnx QUESTION CONTEXT THREADS

The file tokenizer.json lies beside the model's. The context is cut to one window. Prints the best legal span.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MAX_LENGTH, MAX_QUESTION_LENGTH, MAX_ANSWER_LENGTH = 384, 64, 30  # minibert's, in tokens


def main() -> None:
    file, question, context, threads = sys.argv[1:]
    tokenizer = Tokenizer.from_file(str(Path(file).with_name("tokenizer.json")))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    print(answer(tokenizer, session, question, context))


def answer(tokenizer: Tokenizer, session: onnxruntime.InferenceSession, question: str, context: str) -> str:
    """The text of the span with the largest sum of start and end logit."""
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    asked = tokenizer.encode(question.strip(), add_special_tokens=False).ids[:MAX_QUESTION_LENGTH]
    text = tokenizer.encode(context, add_special_tokens=False)
    first = len(asked) + 2  # the context's first token, after [CLS] question [SEP]
    kept = text.ids[: MAX_LENGTH - first - 1]
    ids = np.array([[cls, *asked, sep, *kept, sep]])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    arrays["token_type_ids"][:, first:] = 1
    names = {node.name for node in session.get_inputs()}
    logits = session.run(["start_logits", "end_logits"], {name: arrays[name] for name in names})
    start, end = (values[0, first:-1] for values in logits)  # (context tokens,)
    sums = start[:, None] + end
    is_legal = np.triu(np.ones_like(sums)) * np.tril(np.ones_like(sums), MAX_ANSWER_LENGTH - 1)
    token, last = np.unravel_index(np.where(is_legal, sums, -np.inf).argmax(), sums.shape)
    return context[text.offsets[token][0] : text.offsets[last][1]]


if __name__ == "__main__":
    main()
