"""Wiring: settings, which part stands behind each seam, the use cases that every face calls, and durable jobs."""
