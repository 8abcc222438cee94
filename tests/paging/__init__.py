"""Page walks and segment checks against naive second models."""
