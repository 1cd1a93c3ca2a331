"""One room per kind of source; `geoseg.rasters.open.open_source` is the door to all."""
