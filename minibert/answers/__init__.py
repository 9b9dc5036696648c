"""Answers: logits -> the best legal spans of a question, and their text.

Its files, in the order of their imports:

    spans       the span search, as a loop and as array operations
    confidence  the probability that an answer is right; answering.json in a model's folder
    predict     windows -> logits; a model that is ready to answer
    documents   one question over many documents: which answer is best
    inputs      a call's questions and contexts, in any of their forms -> examples
    options     the options of a call: names, defaults, least values
    pipeline    question and context -> {"score", "start", "end", "answer"}
    explain     what the model computed for one question, as a page
"""
