"""The Gradio demo: a page over the same library, on this machine alone."""

from synthcxr.demo.page import build, launch

__all__ = ["build", "launch"]
