"""The demo: a catalogue of products and queries that is made up, and its labels."""
