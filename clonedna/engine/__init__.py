"""The engine: one base model in memory; load, train, sample and measure adapters. Importing this package loads no model library."""

import os

# torch reads this once, at its first large allocation; what it changes is said in ``memory.give_back_early``.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
