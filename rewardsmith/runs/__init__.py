"""Runs: their folder, metrics, statistics over seeds, plots, report and progress line."""

from .folder import RunFolder as RunFolder
from .metrics import Metrics as Metrics
from .metrics import read_metrics as read_metrics
from .plot import plot_runs as plot_runs
from .plot import run_figures as run_figures
from .progress import Progress as Progress
from .report import write_report as write_report
from .statistics import SeedSummary as SeedSummary
from .statistics import interquartile_mean as interquartile_mean
from .statistics import mean_interval as mean_interval
from .statistics import summarise as summarise
