"""minibert beside `transformers`, other engines and an earlier minibert: `python -m benchmarks --data FILE`.

measure    run two sides in turn, each in a process of its own; rates, ratios, memory
ours       minibert's side: one function for each kind of work
peers      what minibert is compared with: plain loops over `transformers` models
theirs     the peers' side: the same kinds of work
engines    other engines that answer on a CPU, ONNX Runtime and OpenVINO, and minibert beside them
onnx_answer  python -m benchmarks.onnx_answer: one answer by ONNX Runtime, without torch
startup    the start of a process
breakdown  where minibert's time goes, by torch's profiler
rows       the rows of the table, each a comparison of two sides
__main__   python -m benchmarks: the table
recipe     python -m benchmarks.recipe: a whole run by the tuned peer
checkout   a side that runs the minibert of another checkout
former     python -m benchmarks.former: this checkout beside another one, results and speed
pipeline_parity  python -m benchmarks.pipeline_parity: answers beside those of the pipeline that transformers removed
hold_out   python -m benchmarks.hold_out: held-out paragraphs for the choices in docs/recipes.md
split      python -m benchmarks.split: a half of SQuAD 2.0's dev set in three parts
ranking    python -m benchmarks.ranking: which number ranks the answers of several documents best
gpu        python -m benchmarks.gpu: training, attention and evaluation on a CUDA device
"""
