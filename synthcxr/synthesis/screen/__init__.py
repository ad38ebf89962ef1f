"""What a generated picture must pass before it becomes a row.

screen.py        the checks in their order: pictures in, verdicts out
broken.py        blank, clipped, half missing, noise: by the pixels alone
distribution.py  unlike real radiographs: distance of the classifier's features
condition.py     not as asked: the classifier against findings, sex, view, age
privacy.py       too near to a training image: an index of 28 bytes an image
calibration.py   the limits, measured on real radiographs, as a MODEL folder carries them
calibrate.py     the command that measures them
"""

from synthcxr.synthesis.screen.screen import Check, Screen, ScreenConfig, Verdict, open_screen

__all__ = ["Check", "Screen", "ScreenConfig", "Verdict", "open_screen"]
