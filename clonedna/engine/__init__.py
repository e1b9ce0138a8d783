"""The engine: one base model in memory; load, train, sample and measure adapters. Importing this package loads no model library."""

import os

# torch reads this once, at its first large allocation; huge pages make fresh memory, which training steps always touch, cheaper.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
