"""Values and arithmetic: grids, tilings, blending. No I/O but files and caches."""
