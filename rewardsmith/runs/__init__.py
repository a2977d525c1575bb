"""Running experiments: settings, the training loop, run folders, metrics, plots and reports.

Nothing is imported here: the command line sets up the process before polars starts threads in it.
"""
