"""From masks to polygons: topology in compiled loops, and the files they go to."""
