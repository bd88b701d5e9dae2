"""Weight files that other libraries and an earlier version wrote, and the program that made the first."""
