"""One room per kind of source; `geoseg.raster.open_source` is the door to all."""
