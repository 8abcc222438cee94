"""trapgate."""
