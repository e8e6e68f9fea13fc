"""Before anything else: one thread a worker, for two workers with two threads each slow one another down many times."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
