"""Hyperparameter optimization for harmful-brain-activity models."""

__version__ = "0.1.0"
