"""Runs of several methods held against one another: which is better, and how sure that is."""
