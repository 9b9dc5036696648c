"""The commands: flags -> the rest of the package -> a result.

Its files, in the order of their imports:

    flags       dataclass fields -> command line flags
    train       fine-tune a model
    evaluate    score a model, or a file of predictions
    ask         ask a trained model
    serve       try a model in a browser
    publish     upload a trained model to the hub
    verify      compare a model's files with their known hashes
    windows     show how a file is cut into windows
    lesson      follow one question through the model, step by step
"""
