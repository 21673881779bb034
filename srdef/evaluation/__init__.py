"""From attacked images to tables: the protocol, its store, metrics, tables and pictures."""
