"""Evaluation of models: predictions, metrics, gates, comparison, plots and reports.

Everything but the writing of reports is a pure function of arrays.
"""
