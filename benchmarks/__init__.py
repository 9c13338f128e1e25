"""Each operation beside its peers, and whole fits: `make bench`, `python -m benchmarks.report`, `make bench-check`.

bench_*.py    one file an operation (pytest-benchmark): the answer is proven equal first, then times are taken in turns
measure.py    ours, peers, ours, peers ...: what is timed, and what counts
made.py       the inputs
record.py     runs all of it and stores one JSON file in results/
report.py     reads results/: a table of the newest run, a page with the history of each operation
check.py      times this tree and an earlier commit in turns; fails on a regression
"""
