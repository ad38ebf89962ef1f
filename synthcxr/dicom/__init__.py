"""DICOM: hardened reading of radiographs, standard-conforming writing, and the guard that untrusted files need."""
