"""Networks: one adapter per library or file format."""
