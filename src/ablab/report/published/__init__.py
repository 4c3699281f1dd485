"""Published rows: what was printed, how the figures were counted, and where a table contradicts itself."""
