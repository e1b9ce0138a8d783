"""Clone.dna: mint, examine, serve, compose and share LoRA adapters that carry one person's way of writing code."""

__version__ = "0.1.0"
