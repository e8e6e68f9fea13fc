"""Random models, each measured and compared with one backward pass for each sample: ``python -m tests.fisher.fuzz``."""
