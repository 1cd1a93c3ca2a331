"""From labelled rasters to a model: splits by geography, patches, losses, trainers."""
