"""Radiographs on disk: sources that are read, the DATASET folder that everything after `prepare` works on."""
