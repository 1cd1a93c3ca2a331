"""Without networks: thresholds, clusters, superpixels, region growing, forests."""
