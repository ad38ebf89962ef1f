"""A DATASET in, the same images in a form that other software reads out.

run.py         the command: checks, the form, card and Croissant metadata, SHA256SUMS
formats.py     the forms, a line each, and what an export needs
job.py         the images of an export: checked records, PNGs with their marks, rows of metadata
imagefolder.py, parquet.py, webdataset.py, nih_csv.py, dicom.py    one form each
"""
