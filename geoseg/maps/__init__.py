"""Every class map: stores of masks, locks, class rasters, overviews, checks."""
