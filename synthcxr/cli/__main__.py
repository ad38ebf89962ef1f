"""`python -m synthcxr.cli`, the same as `synthcxr`."""

from synthcxr.cli import main

if __name__ == "__main__":
    main()
