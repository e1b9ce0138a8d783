"""HTTP: the OpenAI-compatible `/v1`, health and metrics. Thin over `app`: no state of its own, no use case of its own."""
