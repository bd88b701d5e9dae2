"""The ranks (data-parallel processes) of a run: who started them, how they meet, what they exchange."""
