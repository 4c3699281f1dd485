"""From what MLflow holds to a paper's table: frame → statistics → table, figures → render."""
