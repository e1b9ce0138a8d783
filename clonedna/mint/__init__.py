"""From a person's own public code to a trained, examined, packed block.

The room knows the stages and their order of truth; it gets every part (source, teacher, engine, consents) as an argument and writes
only into the directory that it is given. A completion is a verbatim span; what licence or consent does not allow is refused.
"""
