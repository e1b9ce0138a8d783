"""Teachers write the instruction side of a pair, and only that side: the completion is always a span that the person wrote."""
