"""vlmed: the standardized benchmark for medical vision-language models."""

__version__ = "0.1.0"
