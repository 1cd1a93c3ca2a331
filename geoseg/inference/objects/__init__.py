"""Objects across windows and blocks: matched, joined, numbered, shown."""
