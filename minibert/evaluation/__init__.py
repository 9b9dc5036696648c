"""Evaluation: scores by the official SQuAD rules, and the files of predictions.

Its files, in the order of their imports:

    languages    normal forms and words of other languages than English
    thresholds   null odds and scores -> the best threshold for "no answer"
    scorer       exact match and F1, v1.1 and v2.0
    check        what a data file holds: faults, counts, leakage, the best score that is possible
    predictions  prediction files: read and write
    calibration  how far a confidence can be trusted, and its fit
    intervals    how sure a mean is: bootstrap, paired test
    properties   what a question is like, whatever is predicted
    rows         a row per question: its scores, the class of its error, its properties
    analysis     tables over the rows: slices, differences, suspects
    evaluate     a model and SQuAD data -> scores and predictions
    report       an evaluation as one HTML page
"""
