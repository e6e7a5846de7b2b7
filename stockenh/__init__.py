"""Trains and honestly judges deep models that forecast stocks from daily bars."""

__version__ = "0.1.0"
