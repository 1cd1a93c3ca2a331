"""Values and arithmetic: grids, tilings, classes, blending. No I/O but `files`."""
