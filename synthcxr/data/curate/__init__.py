"""A DATASET in, a smaller and better one out: duplicates dropped, the redundant thinned, what is confounded balanced.

config.py       what a curation needs
fingerprint.py  what is kept of each image meanwhile: hashes and a small picture
near.py         copies that were saved again
duplicates.py   equal pixels, and which of several copies stays
prune.py        which images carry the information, and how many others each stands for
balance.py      columns made independent, by weights or by leaving images out
columns.py      columns of a manifest as levels
ledger.py       every decision, a row an image
summary.py      counts and tables, before and after
plot.py         the same as one picture
decide.py       the steps, one after another
run.py          the command: folders in, DATASET folder out
"""
