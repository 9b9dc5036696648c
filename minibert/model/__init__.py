"""The model: the encoder and span head of the lesson, and what loads, saves and speeds them up.

Its files, in the order of their imports:

    bert          the config, the encoder, the span head and the loss: the centre of the lesson
    config        config.json -> a checked config, and back
    weight_files  the tensors of a weight file that may be damaged or hostile
    weights       the table of published names: load, save, copy a model
    fast_cpu      optional kernels for the CPU; without them all works, but slower
    int8          optional 8-bit products, to answer faster on a CPU
    prepare       a finished model -> ready on its device, to train or to answer
"""
