"""From pixels to labels: windows, blended sums, blocks, and their schedule."""
