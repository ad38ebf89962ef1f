"""How good, how faithful and how private generated radiographs are: metrics take arrays and give typed scores.

run.py           the command evaluate: DATASET folders in, result.json and a report out
part.py          a dataset as it's read: some records, their features, the judge's readings
features.py      extractors, and features kept by content
compare.py       two sets by every metric and group, beside real against real
fidelity.py      Frechet, kernel and Gaussian distances, precision, recall, density, coverage
appearance.py    sharpness, spectrum, grays
diversity.py     similarity of the pictures of one prompt
judged.py        lines of a result that rest on the judge
alignment.py     does a picture show what was asked
image_text.py    does it fit the words; recall and zero-shot questions of an image-text model
control.py       what else moves when one attribute changes
fairness.py      discrimination and underdiagnosis by group
result.py        result.json, typed
report.py        one HTML file; svg.py its plots, sheets.py its pictures
audit_run.py     the command audit; audit_result.py and audit_report.py what it writes
collected.py     the records of an audit, of one or several datasets
privacy.py       the audit of features: feature_set.py one set of them, copying.py the statistics
views.py         the feature sets; pixels.py by shifted windows, copies.py the planted copies
membership.py    can the model tell whom it was trained on
neighbours.py    exact nearest neighbours; faiss_search.py the same by faiss
resampling.py    the bootstrap; scores.py a number with its interval
config.py        what both commands need
"""
