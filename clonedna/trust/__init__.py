"""Who may be believed: keys, signatures and consent. Nothing here is trusted because it is there; a person says so, key by key."""
