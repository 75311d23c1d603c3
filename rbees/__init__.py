"""rbees: several unlike machines behave like one place to run language models."""

__version__ = "0.1.0"
