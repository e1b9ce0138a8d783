"""The command line. Faces hold no state and call `app` only; data goes to stdout, talk to stderr."""
