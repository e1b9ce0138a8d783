"""The only place where code that a model or a stranger wrote may run. No sandbox, no run."""
