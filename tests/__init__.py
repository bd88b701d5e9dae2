"""The tests, in folders that mirror src/; programs/ tests whole programs, golden/ holds files of other libraries."""
