"""synthcxr: chest radiographs out of text prompts and structured conditions, and what they are worth downstream."""

__version__ = "0.1.0"
