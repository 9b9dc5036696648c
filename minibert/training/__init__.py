"""Training: one update of the weights, and the loop around it. Start with `step.py`.

Its files, in the order of their imports:

    step         one update: the loss weighting, the order of its lines, the schedule, the optimizer
    settings     all settings of a run: flags, defaults, help and saved JSON follow from them
    progress     what a run reports: stdout, progress bar, metrics.jsonl
    run_folder   checkpoints kept and pointed at
    card         the README.md of a run: its files, commands and model card
    checkpoint   save and load the state of a run
    losses       the losses since the last line of metrics.jsonl, kept on the device
    loop         the loop around the step
    consistency  what a resumed run and all ranks must share
    run          settings -> data, model, folder, training -> a Run
"""
