"""Testing a separator on every variant: scoring, records, tables, pictures."""
