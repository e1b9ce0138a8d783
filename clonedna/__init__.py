"""Clone.dna: mint, examine, serve, compose and share LoRA adapters that carry one person's way of writing code."""

__version__ = "0.1.0"
API_VERSION = "1.0"  # of the routes under /api/v1; a client refuses a server of another major one
