"""The commands: flags -> the rest of the package -> a result.

Its files, in the order of their imports:

    flags       dataclass fields -> command line flags
    notes       what a training run noted in its checkpoint
    train       fine-tune a model
    evaluate    score a model, or a file of predictions
    calibrate   fit the null threshold and the confidence of a model
    average     the mean of several runs' weights
    compare     two systems on the same questions
    stream      the stream of JSON lines of ask
    ask         ask a trained model
    serve       try a model in a browser
    publish     upload a trained model to the hub
    check       find and repair the faults of a data file
    verify      compare a model's files with their known hashes
    windows     show how a file is cut into windows
    walk        the sections of the lesson: one question at each step
    lesson      follow one question through the model, step by step
"""
