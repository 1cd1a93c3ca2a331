"""Networks rewritten to the same answer in less time."""
