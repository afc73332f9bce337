"""Programs that show the library at work; each one runs from the root of a checkout."""
