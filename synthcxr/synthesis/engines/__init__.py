"""Engines: who does the jobs that are asked for. An engine takes jobs as it can do them, and yields what is done."""

from synthcxr.synthesis.engines.local import local
from synthcxr.synthesis.engines.ray import on_ray

ENGINES = {"local": local, "ray": on_ray}
