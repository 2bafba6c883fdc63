"""Teacher-aligned distillation of text-embedding models."""

__version__ = "0.1.0"
