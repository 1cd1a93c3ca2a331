"""Threads or Dask, progress, interrupts. Knows nothing of rasters."""
