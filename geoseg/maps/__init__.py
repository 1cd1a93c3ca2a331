"""What lies around the masks: metadata, parts, locks, overviews, verification."""
