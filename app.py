"""The Gradio demo: `python app.py [--port N] [--model FOLDER]`, the same as `synthcxr demo`."""

import sys

from synthcxr.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "demo")
    main()
