"""The tests, in folders that mirror src/; programs/ tests whole programs, and golden/ holds reference values."""
