"""The engine: one base model in memory; load, train, sample and measure adapters. Importing this package loads no model library."""
