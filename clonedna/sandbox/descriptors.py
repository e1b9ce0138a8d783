"""Numbers of the open files that bubblewrap is started with. A module of its own: the supervisor loads little, so that it starts fast."""

FILTERS = (10, 11)
STATUS, BLOCK = 12, 13
